"""An installation of tiny windows and a tiny network: a lake, an MLflow on a database, and a ``sensorloop.toml`` that says so."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from dags.settings import Settings, load
from registry.connection import connect
from tests.training.lakes import publish
from tests.training.made import windows
from training.dataset import WindowSet

TOML = """
[windows]
length = 2
hop = 1
rate_hz = 50
sensors = ["accelerometer", "gyroscope"]
[data]
channels = ["acc_x", "acc_y", "acc_z"]
min_labelled = 20
[spectrogram]
segment = 0.64
bands = 16
frames = 16
[original]
architecture = "resnet18"
epochs = 6
batch = 16
threads = 1
device = "cpu"
[finetune]
trainable = "block"
epochs = 2
validation_folds = 2
threads = 1
device = "cpu"
[gate]
recovery_threshold = 0.1
recovery_lower_threshold = 0
min_holdout_windows = 10
macro_f1_tolerance = 1
accuracy_tolerance = 1
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where everything of an installation is."""

    home: Path

    def settings(self, more: str = "") -> Settings:
        """What its ``sensorloop.toml`` says, and a few lines more."""
        file = self.home / "sensorloop.toml"
        if more:
            section, lines = more.split("\n", 1)
            text = file.read_text(encoding="utf-8")
            text = text.replace(section, f"{section}\n{lines}") if section in text else f"{text}{more}\n"
            file = self.home / "changed.toml"
            file.write_text(text, encoding="utf-8")
        return load({"SENSORLOOP_HOME": str(self.home), "SENSORLOOP_CONFIG": str(file)})

    def publish(self, made: WindowSet, *, cohort: str = "target", phone: str = "made") -> int:
        """Windows into its lake; returns the lake's version."""
        return publish(self.home / "lake", made, cohort=cohort, phone=phone)

    def client(self) -> MlflowClient:
        """Of its MLflow."""
        return connect(self.settings().registry.tracking_uri)


def make(home: Path, empty_database: Path) -> Place:
    """A place whose lake has a source of five people and a target of six."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database, home / "mlflow.db")
    url = f"sqlite:///{home / 'mlflow.db'}"
    registry = f'[registry]\ntracking_uri = "{url}"\nledger_url = "{url}"\n'
    (home / "sensorloop.toml").write_text(TOML + registry, encoding="utf-8")
    place = Place(home=home)
    names = place.settings().registry
    for experiment in (names.original_experiment, names.retrain_experiment):
        # Artifacts would go to the folder that the tests run in.
        place.client().create_experiment(experiment, artifact_location=(home / "artifacts").as_uri())
    place.publish(windows(people=5, each=6), cohort="source")
    place.publish(windows(people=6, each=6, seed=1))
    return place


def copy(place: Place, home: Path) -> Place:
    """Another installation like this one, which may be changed without harm to whoever shares it."""
    shutil.copytree(place.home, home)
    file = home / "sensorloop.toml"
    file.write_text(file.read_text(encoding="utf-8").replace(str(place.home), str(home)), encoding="utf-8")
    return Place(home=home)
