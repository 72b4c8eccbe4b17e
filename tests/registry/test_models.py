"""Models in a real MLflow: what is logged computes what was trained, and what does not is not logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from registry.errors import LogitsDiffer, ModelError, TrackingError
from registry.models import Signals, load_model, log_model
from registry.registered import MlflowVersions
from registry.versions import Alias, Tag, Version
from tests.registry.networks import BranchingNetwork, NoisyNetwork, SilentNetwork, TinyNetwork


def signals(windows: int, seed: int = 0) -> Signals:
    return np.random.default_rng(seed).normal(size=(windows, 3, 250)).astype(np.float32)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    run = client.create_run(client.create_experiment("retrain"))
    client.log_param(run.info.run_id, "epochs", 8)
    return str(run.info.run_id)


def test_logged_registered_and_loaded_it_computes_the_same(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    network = TinyNetwork().train()
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    logged = log_model(
        client,
        network,
        run_id=run_id,
        example=signals(1),
        metadata={"scenes": ["Still", "Walk", "Run", "Bike"], "rate_hz": 100},
        files=[weights],
        metrics={"target/accuracy": 0.8},
    )
    assert network.training  # as it was
    assert logged.largest_difference <= 1e-4
    assert client.get_run(run_id).outputs.model_outputs[0].model_id == logged.model_id
    page = client.get_logged_model(logged.model_id)
    assert page.status == "READY"
    shown = {metric.key: metric.value for metric in page.metrics}
    assert shown == {"target/accuracy": 0.8, "latency_ms": 1000 * logged.latency_s, "size_mb": logged.size_mb}
    assert 0 < logged.latency_s < 10
    assert 0.05 < logged.size_mb < 1, "of the exported program, without the weights that were logged beside it"
    assert set(logged.tags) == {"latency_ms", "size_mb"}

    versions = MlflowVersions(client, "scene-recogniser")
    version = versions.register(
        source=logged.uri,
        model_id=logged.model_id,
        run_id=run_id,
        description="**FilterLoss** on lake version 17.",
        tags={Tag.COHORT: "all"},
        alias=Alias.CHALLENGER,
    )
    assert (version.aliases, version.run_id) == (("challenger",), run_id)

    loaded = load_model(client, version, tmp_path / "cache")
    network.eval()
    for windows in (1, 2, 7):
        expected = network(torch.from_numpy(signals(windows, seed=windows))).detach().numpy()
        np.testing.assert_allclose(loaded.predict(signals(windows, seed=windows)), expected, atol=1e-4)
    assert loaded.metadata == {"scenes": ["Still", "Walk", "Run", "Bike"], "rate_hz": 100}
    again = TinyNetwork(seed=1)
    again.load_state_dict(torch.load(loaded.files / "weights.pt", weights_only=True))
    assert torch.equal(again.body[0].weight, network.body[0].weight)
    for wrong in (signals(2)[:, :2], signals(2)[:, :, :100], signals(2).astype(np.float64), signals(2)[0]):
        with pytest.raises(ModelError, match=r"takes .*-1, 3, 250"):
            loaded.predict(wrong)
    fetched = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    load_model(client, version, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == fetched


def test_what_is_logged_can_be_put_on_record_without_a_machine_in_it(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    """Versions without the build's suffix, which no package index knows; the CPU, wherever it is loaded; no pickled module."""
    logged = log_model(client, TinyNetwork(), run_id=run_id, example=signals(3))
    folder = Path(client.get_logged_model(logged.model_id).artifact_location.removeprefix("file://"))
    assert {file.name for file in (folder / "data").iterdir()} == {"model.pt2"}
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition("==")[0] for line in requirements] == ["mlflow", "torch", "numpy"]
    assert not [line for line in requirements if "+" in line]
    description = (folder / "MLmodel").read_text(encoding="utf-8")
    assert "device: cpu" in description
    assert f"run_id: {run_id}" in description
    assert str(tmp_path) not in description.replace(str(folder), "")


@pytest.mark.parametrize(
    ("network", "error", "says"),
    [
        (NoisyNetwork, LogitsDiffer, "logits_tolerance"),
        (SilentNetwork, LogitsDiffer, "by nan in a logit"),
        (BranchingNetwork, ModelError, "BranchingNetwork cannot be exported"),
    ],
)
def test_what_computes_something_else_is_not_logged(
    client: MlflowClient, run_id: str, network: type[TinyNetwork], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        log_model(client, network(), run_id=run_id, example=signals(2))
    assert client.search_logged_models([client.get_run(run_id).info.experiment_id]) == []


@pytest.mark.parametrize("example", [signals(0), signals(2)[0], signals(2).astype(np.float64)])
def test_an_example_that_is_none(client: MlflowClient, run_id: str, example: Signals) -> None:
    with pytest.raises(ModelError, match="float32"):
        log_model(client, TinyNetwork(), run_id=run_id, example=example)


def test_a_run_that_is_not_there(client: MlflowClient) -> None:
    with pytest.raises(TrackingError, match="log a model of run"):
        log_model(client, TinyNetwork(), run_id="0" * 32, example=signals(2))


def test_a_model_whose_files_are_gone(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="model", source_run_id=run_id)
    version = MlflowVersions(client, "scene-recogniser").register(
        source=model.model_uri, model_id=model.model_id, run_id=run_id, description="", tags={}
    )
    with pytest.raises(ModelError, match="no files"):
        load_model(client, version, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_versions_of_the_same_number_are_not_taken_for_each_other(
    client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    """Every registered model counts from 1: that of a cohort of its own, and that of an MLflow that was made anew."""
    networks = {name: TinyNetwork(seed).eval() for seed, name in enumerate(("everybody", "town"))}
    logged = {name: log_model(client, each, run_id=run_id, example=signals(2)) for name, each in networks.items()}

    def register(name: str, of: str) -> Version:
        return MlflowVersions(client, name).register(
            source=logged[of].uri, model_id=logged[of].model_id, run_id=run_id, description="", tags={}
        )

    def loads(version: Version, of: str) -> bool:
        said = load_model(client, version, tmp_path / "cache").predict(signals(3))
        return bool(np.allclose(said, networks[of](torch.from_numpy(signals(3))).detach().numpy(), atol=1e-4))

    first, second = register("scene-recogniser", "everybody"), register("scene-recogniser.town", "town")
    assert first.version == second.version == "1"
    assert loads(first, "everybody")
    assert loads(second, "town")
    client.delete_registered_model("scene-recogniser")
    again = register("scene-recogniser", "town")
    assert again.version == "1"
    assert loads(again, "town")
