"""Small fleets, and settings with which a pair of them takes a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dags.settings import Settings, load
from tests.training.lakes import SETTINGS, of_people, publish
from tests.training.made import SMALL, windows
from training.settings import OriginalSettings

NO_MLFLOW = '[registry]\ntracking_uri = "http://127.0.0.1:1"\nledger_url = "sqlite://"\n'
"""Nobody listens there: an MLflow that somebody has started is none of these tests' business."""


def settings(home: Path, more: str = NO_MLFLOW) -> Settings:
    (home / "sensorloop.toml").write_text(SETTINGS + more)
    found = load({"SENSORLOOP_HOME": str(home), "SENSORLOOP_CONFIG": str(home / "sensorloop.toml")})
    original = OriginalSettings(architecture="resnet18", epochs=1, threads=1)
    finetune = replace(found.finetune, threads=1, epochs=1, head_pulls=(1e-3,))
    return replace(found, original=original, finetune=finetune, spectrogram=SMALL)


def both(folder: Path) -> str:
    """A lake of two fleets, six people each."""
    publish(folder, of_people("source", windows(people=6, each=8)), cohort="source")
    publish(folder, of_people("target", windows(people=6, each=8, seed=3)), cohort="target")
    return str(folder)
