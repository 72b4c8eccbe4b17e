"""What a setting may not be is said at once, wherever it was written."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dags.settings import load
from streaming.errors import SettingsError as WrongKind
from training.errors import SettingsError
from training.settings import DataSettings, FineTuneSettings, OriginalSettings, QualitySettings, SpectrogramSettings

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, type] = {
    "spectrogram": SpectrogramSettings, "data": DataSettings, "original": OriginalSettings, "quality": QualitySettings,
    "finetune": FineTuneSettings,
}  # fmt: skip
FREE = {("original", "rotate"), ("finetune", "rotate")}
"""Anything of its kind is allowed."""
SHARE = (-0.1, 1.1, math.nan)
POSITIVE = (0.0, -1.0, math.inf, math.nan)
NOT_NEGATIVE = (-1e-9, math.inf, math.nan)
SEED = (-1, 2**32)
NAMES = (("", "a"), ("a", "a"))
PULLS = ((), (0.0,), (1e-3, -1.0), (1e-3, 1e-3), (math.inf,), (math.nan,))
REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    "spectrogram": {
        "segment": (timedelta(0), timedelta(seconds=-1)), "bands": (0, -1), "frames": (1, 0), "floor": (0.0, -1.0, 1.1, math.nan),
    },
    "data": {
        "channels": ((), *NAMES), "scenes": NAMES, "min_coverage": SHARE, "holdout_share": (0.0, 1.0, *SHARE),
        "holdout_subjects": NAMES, "verified_by": NAMES, "min_labelled": (-1,), "seed": SEED,
    },
    "original": {
        "architecture": ("resnet50", ""), "epochs": (0, -1), "batch": (1, 0), "learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE, "gain": NOT_NEGATIVE, "sensor_dropout": SHARE, "threads": (-1,),
        "device": ("gpu", "cuda:0"), "seed": SEED,
    },
    "quality": {
        "folds": (1, 0), "pulls": PULLS, "neighbours": (0, -1), "novelty": SHARE, "rank_share": SHARE, "rounds": (0,), "shrink": (-1,),
        "thresholds": ((), (0.8, 0.3), (0.3, 0.3), (0.0, 0.5), (0.5, 1.0), (math.nan,)), "floor": (0.0, 1.1, math.nan),
    },
    "finetune": {
        "trainable": ("blok", ""), "epochs": (0,), "max_steps": (0,), "worth": (-1.1, 1.1, math.nan), "batch": (0, -1),
        "shares": ((), (0.0, 1.0), (0.5, 0.5), (1.5,)),
        "head_pulls": PULLS, "learning_rate": POSITIVE, "gain": NOT_NEGATIVE, "sensor_dropout": SHARE, "pull": NOT_NEGATIVE,
        "validation_folds": (1, 0),
        "device": ("gpu",), "threads": (-1,), "seed": SEED, "correction": ("ldam", ""), "margin": NOT_NEGATIVE,
    },
}  # fmt: skip
AT_THE_EDGE: dict[str, dict[str, tuple[Any, ...]]] = {
    "spectrogram": {"bands": (1,), "frames": (2,), "floor": (1.0,)},
    "data": {
        "channels": (("acc_x",),), "scenes": ((), ("Run",)), "min_coverage": (0.0, 1.0), "holdout_subjects": ((), ("p",)),
        "verified_by": ((), ("ana", "bo")),
        "min_labelled": (0,), "seed": (0, 2**32 - 1),
    },
    "original": {
        "architecture": ("resnet18", "resnet34"), "epochs": (1,), "batch": (2,), "weight_decay": (0.0,), "gain": (0.0,),
        "sensor_dropout": (0.0, 1.0), "threads": (0,), "device": ("auto", "cpu", "cuda"),
    },
    "quality": {
        "folds": (2,), "pulls": ((1e-3,),), "neighbours": (1,), "novelty": (0.0, 1.0), "rank_share": (0.0, 1.0),
        "shrink": (0,), "rounds": (1,), "thresholds": ((0.5,), (0.1, 0.2, 0.9)), "floor": (1.0,),
    },
    "finetune": {
        "trainable": ("head", "block", "layer4", "all"), "epochs": (1,), "max_steps": (1,), "worth": (-1.0, 1.0),
        "batch": (1,), "head_pulls": ((1e-3,),), "shares": ((1.0,),),
        "gain": (0.0,), "sensor_dropout": (0.0, 1.0), "pull": (0.0,),
        "validation_folds": (2,), "device": ("auto", "cpu", "cuda"), "correction": ("logit-adjustment", "margins"),
        "margin": (0.0,),
    },
}  # fmt: skip


def each(of: dict[str, dict[str, tuple[Any, ...]]]) -> list[tuple[str, str, Any]]:
    return [(section, key, value) for section, keys in of.items() for key, values in keys.items() for value in values]


def written(section: str, key: str, value: Any) -> str:
    """As it stands in ``sensorloop.toml``."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    text = repr(list(value) if isinstance(value, tuple) else value).replace("'", '"')
    return f"[{section}]\n{key} = {text}\n"


def test_no_setting_was_forgotten() -> None:
    every = {(section, field.name) for section, kind in SECTIONS.items() for field in fields(kind)}
    assert {(section, key) for section, key, _ in each(REFUSED)} == every - FREE


@pytest.mark.parametrize(("section", "key", "value"), each(REFUSED))
def test_what_cannot_work_is_refused_with_section_key_value_and_what_is_allowed(
    section: str, key: str, value: Any
) -> None:
    with pytest.raises(SettingsError) as caught:
        SECTIONS[section](**{key: value})
    shown = f"{value.total_seconds():g} s" if isinstance(value, timedelta) else repr(value)
    shown = repr(list(value)) if isinstance(value, tuple) else shown
    assert re.fullmatch(rf"\[{section}\] {key} = {re.escape(shown)}: must be [a-z].*", str(caught.value))


@pytest.mark.parametrize(("section", "key", "value"), each(AT_THE_EDGE))
def test_what_works_is_allowed_up_to_the_edge(section: str, key: str, value: Any) -> None:
    assert getattr(SECTIONS[section](**{key: value}), key) == value


@pytest.mark.parametrize(("section", "key", "value"), each(REFUSED))
def test_in_the_file_it_is_refused_the_same(tmp_path: Path, section: str, key: str, value: Any) -> None:
    file = tmp_path / "sensorloop.toml"
    file.write_text(written(section, key, value), encoding="utf-8")
    # A choice is refused while it is read, a range after it.
    with pytest.raises((SettingsError, WrongKind), match=rf"^\[{section}\] {key} = "):
        load({"SENSORLOOP_CONFIG": str(file), "SENSORLOOP_HOME": str(tmp_path)})


@pytest.mark.parametrize(("section", "key", "value"), each(AT_THE_EDGE))
def test_in_the_file_it_is_allowed_the_same(tmp_path: Path, section: str, key: str, value: Any) -> None:
    file = tmp_path / "sensorloop.toml"
    file.write_text(written(section, key, value), encoding="utf-8")
    settings = load({"SENSORLOOP_CONFIG": str(file), "SENSORLOOP_HOME": str(tmp_path)})
    assert getattr(getattr(settings, section), key) == value


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[finetune]\ntrainable = "blok"\n', "[finetune] trainable = 'blok': Input should be 'head', 'block', 'layer4' or 'all'"),
        ('[original]\ndevice = "gpu"\n', "[original] device = 'gpu': Input should be 'auto', 'cpu' or 'cuda'"),
        ("[quality]\nthresholds = [0.8, 0.3]\n", "[quality] thresholds = [0.8, 0.3]: must be a list of"),
    ],
)  # fmt: skip
def test_at_the_command_line_it_is_a_sentence_and_no_traceback(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "sensorloop.toml").write_text(toml, encoding="utf-8")
    known = {name: text for name, text in os.environ.items() if not name.startswith(("SENSORLOOP", "KAFKA"))}
    env = {**known, "SENSORLOOP_HOME": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sensorloop", "kafka", "status"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
