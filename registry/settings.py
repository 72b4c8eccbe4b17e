"""The settings of this package; ``sensorloop.toml`` has a section for each class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from registry.errors import RegistrySettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Where MLflow and the ledger are, and what things are called there."""

    tracking_uri: str = ""
    """MLflow server (or database) that runs and models go to. Empty: the local server, see ``host`` and ``port``."""
    ledger_url: str = ""
    """SQLAlchemy URL of the ledger, ``sqlite:///…`` or ``postgresql+psycopg://…``. Empty: the database of the local
    server, so that one backup holds both. Needed with a ``tracking_uri`` of your own: put it into that server's database. A URL
    with a password need not stand here: ``file:PATH`` or ``env:NAME`` says where it does."""
    host: str = "127.0.0.1"
    """Address the local server listens on. Loopback, because MLflow asks nobody for a password."""
    port: int = 25000
    """Port of the local server: beside MLflow's usual 5000 (which macOS takes), not on it."""
    workers: int = 1
    """Processes of the local server that answer requests. 240 MB each; one keeps up with a retraining run."""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers the local server answers to, ``*`` as wildcard. Empty: MLflow's own, the loopback and private names."""
    startup_timeout: timedelta = timedelta(minutes=2)
    """How long the local server may take to answer. 10 to 20 s on two busy cores; the first start also makes the tables."""
    model_name: str = "scene-recogniser"
    """The registered model whose versions are the original model and its successors."""
    original_experiment: str = "scene-recogniser-original"
    """Experiment of the runs that train the original model."""
    retrain_experiment: str = "scene-recogniser-retrain"
    """Experiment of the runs that fine-tune: one parent run, a child an arm."""
    logits_tolerance: float = 1e-4
    """Largest difference between a logit of the trained and of the exported model. Beyond float32's own rounding it means
    that the export has changed the model."""
    lock_timeout: timedelta = timedelta(seconds=60)
    """How long a promotion or rollback waits for another to finish. One takes well under a second."""

    def resolved(self, home: Path) -> RegistrySettings:
        """These settings with nothing left empty.

        Args:
            home: the folder that holds everything of this installation; the local server's is ``<home>/mlflow``.

        Raises:
            RegistrySettingsError: a ``tracking_uri`` of your own, but no ``ledger_url``.
        """
        if not self.is_local and not self.ledger_url:
            msg = (
                f"[registry] tracking_uri is {self.tracking_uri}, but ledger_url is empty: the ledger belongs with the "
                "registry's database, not on this machine's disk. Set [registry] ledger_url to a SQLAlchemy URL."
            )
            raise RegistrySettingsError(msg)
        return replace(
            self,
            tracking_uri=self.tracking_uri or f"http://{self.host}:{self.port}",
            ledger_url=self.ledger_url or database_url(home),
        )

    @property
    def is_local(self) -> bool:
        """Whether the local server is the one to use, so that somebody must start it."""
        return self.tracking_uri in {"", f"http://{self.host}:{self.port}"}


def database_url(home: Path) -> str:
    """SQLAlchemy URL of the local server's database."""
    return f"sqlite:///{(home / 'mlflow' / 'mlflow.db').absolute()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """What a candidate must show before it becomes champion."""

    recovery_threshold: float = 0.90
    """Least recovery ratio: the candidate's accuracy on the target holdout ÷ the original model's on the source holdout.
    The published FilterLoss reached 0.9234; 0.90 leaves room for a holdout of a few hundred windows."""
    recovery_lower_threshold: float = 0.0
    """Least lower confidence bound of the recovery ratio; 0 asks for none. With a bound asked for, a candidate without a
    confidence interval is refused."""
    accuracy_tolerance: float = 0.0
    """How far the accuracy may be below the champion's and the original model's on the same holdout, as a share."""
    macro_f1_tolerance: float = 0.0
    """The same for macro-F1. Raise it where scenes are rare: one window of ten moves the mean of eight by 0.01."""
    min_scene_recall: float = 0.0
    """Least recall of every scene, as a share; 0 asks for none. With few labels, rare scenes have a recall of 0 or 1."""
    min_holdout_windows: int = 100
    """Fewest windows of a holdout that decides. With 100, an accuracy of 0.8 is known to ±0.08."""
    min_holdout_subjects: int = 2
    """Fewest people in the holdout. Windows of one person are alike, so one person decides nothing; raise it where you can."""
    min_scene_windows: int = 1
    """Fewest windows of each scene in the holdout; with none, nobody knows what the candidate does there."""

    def __post_init__(self) -> None:
        for name in ("recovery_threshold", "recovery_lower_threshold", "accuracy_tolerance", "macro_f1_tolerance"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                msg = f"[gate] {name} = {getattr(self, name)}: must be a number from 0 up"
                raise RegistrySettingsError(msg)
        if not 0.0 <= self.min_scene_recall <= 1.0:
            msg = f"[gate] min_scene_recall = {self.min_scene_recall}: must be a share from 0 to 1"
            raise RegistrySettingsError(msg)
        for name in ("min_holdout_windows", "min_holdout_subjects", "min_scene_windows"):
            if getattr(self, name) < 0:
                msg = f"[gate] {name} = {getattr(self, name)}: must not be negative"
                raise RegistrySettingsError(msg)
