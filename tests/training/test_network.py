from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.errors import ModelError
from training.network import STATE, SceneNet, infer
from training.saved import CONFIG, read_config

from .made import CHANNELS, RATE, SAMPLES, SCENES, SMALL, network, windows

SIGNALS = torch.from_numpy(windows(people=1, each=2).signals)


@pytest.fixture(scope="module")
def net() -> SceneNet:
    return network()


def test_signals_in_logits_out(net: SceneNet) -> None:
    assert infer(net, SIGNALS).shape == (6, 3)
    torch.testing.assert_close(infer(net, SIGNALS, batch=4), infer(net, SIGNALS), rtol=1e-4, atol=1e-5)


def test_a_phone_with_nothing_but_gaps_still_gets_a_finite_answer(net: SceneNet) -> None:
    signals = SIGNALS.clone()
    signals[0, 1] = torch.nan
    signals[1] = torch.nan
    signals[2, :, 10:40] = torch.nan
    assert torch.isfinite(infer(net, signals)).all()


@pytest.mark.parametrize("trainable", ["head", "block", "layer4", "all"])
def test_the_two_parts_are_the_whole_and_share_its_parameters(net: SceneNet, trainable: str) -> None:
    frozen, part = net.split(trainable)  # type: ignore[arg-type]
    torch.testing.assert_close(infer(part, infer(frozen, SIGNALS)), infer(net, SIGNALS), rtol=1e-4, atol=1e-5)
    ours = {id(parameter) for parameter in net.parameters()}
    halves = [id(parameter) for half in (frozen, part) for parameter in half.parameters()]
    assert len(halves) == len(set(halves))
    assert set(halves) == ours
    trained = {"head": 2, "block": 8, "layer4": 17, "all": len(ours)}[trainable]
    assert len(list(part.parameters())) == trained


def test_windows_of_another_rate_or_length_are_refused_with_what_to_change(net: SceneNet) -> None:
    """Nothing else would say so: a residual network takes images of any size, and an answer is an answer."""
    made = windows(people=1, each=2)
    assert net.aligned(made.with_channels(("acc_z", "acc_x"))).channels == CHANNELS
    for other in (replace(made, rate_hz=RATE / 2), replace(made, signals=made.signals[..., :-1])):
        with pytest.raises(ModelError, match=r"learned from 100 at 50 Hz. Set \[windows\] rate_hz and length"):
            net.aligned(other)


def test_a_clone_shares_nothing(net: SceneNet) -> None:
    before, clone = net.digest(), net.clone()
    assert clone.digest() == before
    with torch.no_grad():
        clone.backbone.fc.bias += 1
    assert clone.digest() != before == net.digest()


def test_the_digest_changes_with_every_kind_of_thing_that_decides_an_answer(net: SceneNet) -> None:
    digests = {net.digest()}
    for name in ("backbone.fc.weight", "backbone.bn1.running_mean", "spectrogram.floor", "spectrogram.scale"):
        clone = net.clone()
        tensor = clone.state_dict()[name]
        tensor.view(-1)[0] += 1
        digests.add(clone.digest())
    other = SceneNet.build({**net.config(), "scenes": ["Run", "Walk", "Still"]})
    other.load_state_dict(net.state_dict())
    digests.add(other.digest())
    assert len(digests) == 6


def test_what_is_saved_is_loaded_without_pickles(net: SceneNet, tmp_path: Path) -> None:
    net.save(tmp_path / "model", {"kind": "test"})
    loaded = SceneNet.load(tmp_path / "model")
    assert loaded.digest() == net.digest()
    assert not loaded.training
    torch.testing.assert_close(infer(loaded, SIGNALS), infer(net, SIGNALS))
    assert read_config(tmp_path / "model")["kind"] == "test"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [CONFIG, STATE]
    torch.load(tmp_path / "model" / STATE, weights_only=True)


def test_architectures() -> None:
    def build(architecture: str) -> SceneNet:
        return SceneNet(
            channels=CHANNELS,
            scenes=SCENES,
            rate_hz=RATE,
            samples=SAMPLES,
            spectrogram=SMALL,
            architecture=architecture,
        )

    sizes = [sum(p.numel() for p in build(name).parameters()) for name in ("resnet18", "resnet34")]
    assert [round(size / 1e6) for size in sizes] == [11, 21]
    with pytest.raises(ModelError, match=r"'vgg'.*\[original\] architecture to resnet34 or resnet18"):
        build("vgg")


def lacking(key: str) -> str:
    return json.dumps({name: value for name, value in network().config().items() if name != key})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (STATE, b""),
        (STATE, b"no tensors"),
        (STATE, b"PK\x03\x04 half an archive"),
        (STATE, None),
        (CONFIG, b"{"),
        (CONFIG, b"[]"),
        (CONFIG, b"{}"),
        (CONFIG, b"\xff\xfe"),
        (CONFIG, None),
        (CONFIG, lacking("spectrogram").encode()),
        (CONFIG, json.dumps({**network().config(), "scenes": ["Run"]}).encode()),
        (CONFIG, json.dumps({**network().config(), "spectrogram": {"colour": 1}}).encode()),
        (CONFIG, json.dumps({**network().config(), "rate_hz": "fast"}).encode()),
    ],
)
def test_a_damaged_model_is_an_error_that_names_its_folder(
    net: SceneNet, tmp_path: Path, name: str, content: bytes | None
) -> None:
    net.save(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    if content is not None:
        (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{tmp_path}/model"):
        SceneNet.load(tmp_path / "model")


def test_a_state_of_another_network_does_not_fit(net: SceneNet, tmp_path: Path) -> None:
    net.save(tmp_path / "one")
    SceneNet.build({**net.config(), "architecture": "resnet34"}).save(tmp_path / "two")
    (tmp_path / "two" / STATE).replace(tmp_path / "one" / STATE)
    with pytest.raises(ModelError, match="cannot be read"):
        SceneNet.load(tmp_path / "one")
