from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from streaming import config
from streaming.errors import SettingsError
from streaming.settings import KafkaSettings, WindowSettings

SECTIONS = {"kafka": KafkaSettings, "windows": WindowSettings}


def load(text: str, folder: Path, **environ: str) -> dict[str, object]:
    path = folder / "sensorloop.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(SECTIONS, path=path, environ=environ)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    loaded = config.load(SECTIONS, path=tmp_path / "none.toml", environ={"PATH": "/bin"})
    assert loaded == {"kafka": KafkaSettings(), "windows": WindowSettings()}


def test_the_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    text = '[windows]\nlength = 4\nhop = "PT2S"\n[kafka]\ngroup_id = "file"\n'
    loaded = load(text, tmp_path, SENSORLOOP_WINDOWS__HOP="1", SENSORLOOP_WINDOWS__SENSORS='["gyroscope"]')
    assert loaded["windows"] == WindowSettings(
        length=timedelta(seconds=4), hop=timedelta(seconds=1), sensors=("gyroscope",)
    )
    assert loaded["kafka"] == KafkaSettings(group_id="file")


def test_text_in_the_environment_needs_no_quotes(tmp_path: Path) -> None:
    assert load("", tmp_path, SENSORLOOP_KAFKA__GROUP_ID="mine")["kafka"] == KafkaSettings(group_id="mine")


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("[windws]\n", {}, "'windws'. Did you mean 'windows'"),
        ("[windows]\nlenght = 5\n", {}, r"\[windows\].*'lenght'. Did you mean 'length'"),
        ("", {"SENSORLOOP_WINDOWS__RATE_HZZ": "50"}, "SENSORLOOP_WINDOWS__RATE_HZZ.*Did you mean 'rate_hz'"),
        ("", {"SENSORLOOP_WINDOW__HOP": "50"}, "Did you mean 'windows'"),
        ("[windows]\nrate_hz = 'fast'\n", {}, r"\[windows\] rate_hz = 'fast'"),
        ("[windows]\nhop = 3\n", {}, "must divide length"),
        ("[windows]\nsensors = ['nose']\n", {}, "known are accelerometer"),
        ("[windows]\nsensors = 'gyroscope'\n", {}, r'should be a list, as \["a", "b"\]'),
        ("[windows\n", {}, "not valid TOML"),
        ("windows = 5\n", {}, "must be a section"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(text, tmp_path, **environ)


def test_required_settings_are_named(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needed:
        token: str

    with pytest.raises(SettingsError, match=r"\[s\] token"):
        config.load({"s": Needed}, path=tmp_path / "none", environ={})
