"""When Airflow does what: the sections ``[retrain]`` and ``[airflow]`` of ``sensorloop.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainSettings:
    """The DAG ``retrain``. What a person may choose for one run are defaults here, so that the schedule uses them too."""

    schedule: str = "@daily"
    """Cron expression or preset, in UTC. Empty: only by hand. Labels come in over days, so more than daily rarely pays."""
    cohort: str = "target"
    """Fleet to retrain for."""
    arms: tuple[str, ...] = ("all",)
    """Arms to train. The baselines cost as much as FilterLoss itself; without them the comparison is missing."""
    min_windows: int = 100
    """New labelled windows that make a run worth it; with fewer, what changes is mostly chance. Below it a run is skipped."""
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
    Arms that are trained are kept and not trained again; the one under way begins anew."""
    max_failed_runs: int = 3
    """Failed runs in a row after which Airflow pauses the DAG, so that a broken night does not become a broken month."""
    owner: str = "sensorloop"
    """Whom Airflow names as the DAG's owner."""
    executable: str = ""
    """The ``sensorloop`` that tasks run. Empty: the one beside the worker's own Python. GPU workers may have another."""


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
