"""The settings of this package; ``sensorloop.toml`` has a section for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """Experiment of the runs that fine-tune: a run a DAG run, below it one a cohort, below that one an arm. Airflows that share an MLflow
    need one each."""
    arms_experiment: str = "scene-recogniser-arms"
    """Experiment of the runs of ``sensorloop experiment``: a run a pair of data sets, below it one a cell."""
    logits_tolerance: float = 1e-4
    """Largest difference between a logit of the trained and of the exported model. Beyond float32's own rounding it means
    that the export has changed the model."""
    lock_timeout: timedelta = timedelta(seconds=60)
    """How long a promotion or rollback waits for another to finish. One takes well under a second."""

    webhook_url: str = ""
    """Address that is told, by a signed POST, when the champion has changed. Empty: nobody is."""
    webhook_secret: str = ""
    """Where the secret is that signs it, ``env:NAME`` or ``file:PATH``; the receiver has the same. Needed with ``webhook_url``."""
    webhook_timeout: timedelta = timedelta(seconds=2)
    """How long an announcement may take. Whoever promotes or rolls back waits for it; one that failed is tried again by the next."""
    system_metrics_every: timedelta = timedelta(seconds=5)
    """Between two looks at CPU, memory, disk, network and GPU while a run trains, drawn in MLflow beside its curves; 0 for none."""

    def resolved(self, home: Path) -> RegistrySettings:
        """These settings with nothing left empty.

        Args:
            home: the folder that holds everything of this installation; the local server's is ``<home>/mlflow``.

        Raises:
            RegistrySettingsError: a ``tracking_uri`` of your own, but no ``ledger_url``; a webhook without a secret.
        """
        if not self.is_local and not self.ledger_url:
            msg = (
                f"[registry] tracking_uri is {self.tracking_uri}, but ledger_url is empty: the ledger belongs with the "
                "registry's database, not on this machine's disk. Set [registry] ledger_url to a SQLAlchemy URL."
            )
            raise RegistrySettingsError(msg)
        if self.webhook_url and not self.webhook_secret:
            msg = (
                "[registry] webhook_url is set and webhook_secret is not: nobody could tell our messages from another's. Set it to "
                "where the secret is, env:NAME or file:PATH."
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
    recovery_lower_threshold: float = 0.70
    """Least lower 95 % bound of the recovery ratio, over people; 0 asks for none. It goes down each time that the same holdout
    decides, so a refusal by it alone says: hold out other or more people (``sensorloop registry renew-holdout``). With five people
    held out it is about the worst of them who counts."""
    accuracy_tolerance: float = 0.0
    """How far the accuracy may be below the champion's and the original model's on the same holdout, as a share."""
    macro_f1_tolerance: float = 0.0
    """The same for macro-F1. Raise it where scenes are rare: one window of ten moves the mean of eight by 0.01."""
    min_scene_recall: float = 0.0
    """Least recall of every scene, as a share; 0 asks for none. With few labels, rare scenes have a recall of 0 or 1."""
    scene_recall: Mapping[str, float] = field(default_factory=dict)
    """Floors for single scenes, in place of ``min_scene_recall``: ``{Bus = 0.6, Train = 0.5}``. For those that must not be lost."""
    min_holdout_windows: int = 100
    """Fewest windows of a holdout that decides. With 100, an accuracy of 0.8 is known to ±0.08."""
    min_holdout_subjects: int = 2
    """Fewest people in the holdout. Windows of one person are alike, so one person decides nothing; raise it where you can."""
    min_scene_windows: int = 1
    """Fewest windows of each scene in the holdout; with none, nobody knows what the candidate does there."""
    max_holdout_changed: float = 0.10
    """Largest share of the frozen holdout's windows that may have been labelled otherwise, or be gone, since it was frozen.
    Corrections are welcome; with more of them it is another holdout, and has to be named one: ``sensorloop registry renew-holdout``."""
    max_latency: timedelta = timedelta(milliseconds=250)
    """Longest that one window may take, on one thread of the machine that promotes (the fastest of several calls, so that a busy machine
    refuses nothing); 0 asks for none.
    A ResNet-34 takes 20 to 60 ms; windows come every few seconds."""
    max_size_mb: float = 250.0
    """Largest size of the model's files, in 10⁶ bytes; 0 asks for none. A ResNet-34 has 85 MB."""

    def __post_init__(self) -> None:
        for name in (
            "recovery_threshold", "recovery_lower_threshold", "accuracy_tolerance", "macro_f1_tolerance", "max_size_mb",
        ):  # fmt: skip
            if not 0.0 <= getattr(self, name) < float("inf"):
                msg = f"[gate] {name} = {getattr(self, name)}: must be a number from 0 up"
                raise RegistrySettingsError(msg)
        shares = {
            "min_scene_recall": self.min_scene_recall,
            "max_holdout_changed": self.max_holdout_changed,
            **{f"scene_recall.{scene}": floor for scene, floor in self.scene_recall.items()},
        }
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                msg = f"[gate] {name} = {share}: must be a share from 0 to 1"
                raise RegistrySettingsError(msg)
        if self.max_latency < timedelta(0):
            msg = f"[gate] max_latency = {self.max_latency.total_seconds():g}: must not be negative"
            raise RegistrySettingsError(msg)
        for name in ("min_holdout_windows", "min_holdout_subjects", "min_scene_windows"):
            if getattr(self, name) < 0:
                msg = f"[gate] {name} = {getattr(self, name)}: must not be negative"
                raise RegistrySettingsError(msg)
