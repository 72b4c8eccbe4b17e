"""When Airflow does what: the sections ``[retrain]``, ``[care]`` and ``[airflow]`` of ``sensorloop.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from streaming.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainSettings:
    """The DAG ``retrain``. What a person may choose for one run are defaults here, so that the schedule uses them too."""

    schedule: str = "@daily"
    """Cron expression or preset, in UTC. Empty: only by hand. Labels come in over days, so more than daily rarely pays."""
    look_every: str = "*/15 * * * *"
    """Cron expression or preset, in UTC: when ``watch_lake`` looks whether enough is new, so that a retraining need not wait for its
    schedule. A look takes seconds. Empty: it never looks."""
    cohorts: tuple[str, ...] = ("target",)
    """Whom to retrain for, a model each: fleets (``target``), parts of one (``target/phone_model=Pixel 8``, ``target/subject_id=ana``), and
    every part of a kind (``target/phone_model=*``). The first is everybody's: its model serves whoever has none of its own. It stays
    first: with another order a champion would be another cohort's, which is refused."""
    own_windows: int = 500
    """Labelled windows that a part of a fleet needs for a model of its own; with fewer it would be worse than everybody's. It also needs
    people (of one person: sessions) enough to hold some out with every scene."""
    policy: str = "filterloss"
    """Arm whose model is asked to become champion."""
    arms: tuple[str, ...] = ("filterloss",)
    """Arms to train beside ``policy``; the gate needs no more. Each baseline costs as much as FilterLoss itself, so ask for them (``all``,
    in one run or here) where you want the comparison."""
    min_windows: int = 100
    """New labelled windows that make a run worth it; with fewer, what changes is mostly chance. Below it a run is skipped."""
    approval: bool = False
    """Whether a person is asked before a model that passed the gate becomes champion."""
    approval_timeout: timedelta = timedelta(days=2)
    """How long a person has for that; no answer counts as no."""
    parallel_shards: int = 2
    """Shards scored at a time. Each takes all cores of its worker; raise it to the number of workers."""
    seed: int = 0
    """One lake version and one seed are one run key, and a run key trains once."""
    retries: int = 2
    """Further tries of a task that failed and may work later. What cannot work as things are is never tried again."""
    retry_delay: timedelta = timedelta(minutes=2)
    """Before the first further try; it doubles each time, up to ten times as long."""
    step_timeout: timedelta = timedelta(minutes=15)
    """Longest that pinning or promoting may take; each is a matter of seconds, unless a lake or database is down."""
    rescore_timeout: timedelta = timedelta(hours=2)
    """Longest that scoring may take: minutes for thousands of windows, an hour or so for a million."""
    finetune_timeout: timedelta = timedelta(hours=12)
    """Longest that fine-tuning may take; a night."""
    grace: timedelta = timedelta(seconds=60)
    """What a command gets to end in when its task is stopped, before it is killed: MLflow is told, which takes seconds.
    Arms that are trained are kept and not trained again; the one under way goes on from
    its last checkpoint ([compute] checkpoint_every)."""
    silence: timedelta = timedelta(hours=4)
    """A task's command that has said nothing for so long hangs: it is ended, and tried again. Most say every half minute how far they are;
    longest silent is the network's pass over what is trained on, on two cores 2 hours for a million windows."""
    deadline: timedelta = timedelta(0)
    """How long after it was asked for a retraining may end before somebody is told (see ``alert_url``); it goes on. 0: 6 hours more than
    ``finetune_timeout``, which is 18 h; with ``approval`` also twice ``approval_timeout``, for it and for the run that it may wait for."""
    alert_url: str = ""
    """Where to send (HTTP POST, JSON) that a retraining is late. Empty: Airflow's log has it. A chat's incoming web hook will do."""
    pod_template: str = ""
    """Path of a pod's template, for fine-tuning with the KubernetesExecutor: what asks for the GPU. Empty: none."""
    max_failed_runs: int = 3
    """Failed runs in a row after which Airflow pauses the DAG, so that a broken night does not become a broken month."""
    owner: str = "sensorloop"
    """Whom Airflow names as the DAG's owner."""
    executable: str = ""
    """The ``sensorloop`` that tasks run. Empty: the one beside the worker's own Python. GPU workers may have another."""

    @property
    def late_after(self) -> timedelta:
        """``deadline``, with what 0 stands for."""
        asking = 2 * self.approval_timeout if self.approval else timedelta(0)
        return self.deadline or self.finetune_timeout + timedelta(hours=6) + asking

    def __post_init__(self) -> None:
        if not self.cohorts:
            msg = "[retrain] cohorts = []: must name at least one, whose model is everybody's"
            raise SettingsError(msg)
        if "*" in self.cohorts[0]:
            msg = f"[retrain] cohorts begins with {self.cohorts[0]!r}: must begin with one whose model is everybody's, not with a pattern"
            raise SettingsError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class CareSettings:
    """The DAGs ``maintain_lake`` and ``watch_champion``."""

    lake_schedule: str = "@daily"
    """When the lake is compacted, vacuumed and proven: cron expression or preset, in UTC. Empty: only by hand."""
    champion_schedule: str = "@daily"
    """When the champions are held against newly labelled windows, likewise."""
    least_windows: int = 200
    """Windows labelled since a champion was trained that it is held against; with fewer nothing is said. 200 know 0.8 to ±0.06."""
    recovery_threshold: float = 0.75
    """Recovery ratio on them below which a champion has fallen behind, and is retrained. Below the gate's: labels that nobody has
    sifted are partly wrong, and a right model disagrees with those."""
    timeout: timedelta = timedelta(hours=4)
    """Longest that a task may take: compaction of a day's small files is seconds, the proof of a large lake reads every page of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AirflowSettings:
    """Airflow on this machine."""

    host: str = "127.0.0.1"
    """Address it listens on. Loopback, because its one user is an administrator."""
    port: int = 28080
    """Port of its pages and its API: beside Airflow's usual 8080, which is everybody's usual."""
    parallel_tasks: int = 4
    """Tasks at a time. A waiting worker takes 30 MB of its own; what the tasks run takes more."""
    gpu_slots: int = 1
    """Slots of the pool ``gpu``: fine-tuning runs at a time. Two share one GPU, or one set of cores, badly."""
    parse_interval: timedelta = timedelta(seconds=30)
    """Between two looks at a DAG's file; a change shows after this."""
    startup_timeout: timedelta = timedelta(minutes=4)
    """How long it may take to be healthy: 25 s of computing, so 15 s on two idle cores and 45 s on busy ones; the first start
    in a new environment also compiles Airflow's modules."""
