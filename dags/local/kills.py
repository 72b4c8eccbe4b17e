"""kill -9 in the middle of a fine-tuning, and whether the model is the same all the same: ``make rehearse KILL=1``.

For each victim the results of the run key are laid aside, the DAG is started again, and half-way through the fine-tuning the victim
is killed. A service that dies is started again, as a container engine would. The run has to end well, on whichever try, and every
weight of every arm has to be the one that the undisturbed training came to.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from dags.errors import AirflowUnavailable, DagError
from dags.local.airflow_api import AirflowApi
from dags.local.processes import Processes
from dags.local.stage import DAG, Stage, retrain
from dags.local.summary import ORIGINAL
from streaming import process

VICTIMS = ("trainer", "gpu-worker", "scheduler")
_TASK = "finetune"
_STATE = "state.pt"
_PATIENCE_S = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Killed:
    """What came of one kill."""

    victim: str
    tries: int
    """Of the fine-tuning."""
    arms: int
    """Arms whose weights are the same."""


def rehearse(
    stage: Stage,
    processes: Processes,
    api: AirflowApi,
    url: str,
    *,
    conf: Mapping[str, Any],
    undisturbed: tuple[Path, Sequence[Mapping[str, Any]]],
    sleep: Callable[[float], None],
) -> list[Killed]:
    """Kill one after the other.

    Args:
        stage: where it is said.
        processes: the services.
        api: Airflow's.
        url: of its pages, for people.
        conf: parameters of the run.
        undisturbed: the folder of the run key, and the tasks of the run that filled it.
        sleep: how to wait.

    Raises:
        DagError: a run did not end well, or a model is another one.
    """
    folder, tasks = undisturbed
    seconds = _duration(next(task for task in tasks if str(task["task_id"]).endswith(_TASK)))
    found, aside = [], folder.with_name(f"{folder.name}-undisturbed")
    folder.rename(aside)
    for victim in VICTIMS:
        killer = _Killer(processes, victim, after_s=seconds / 2)
        killer.start()
        try:
            note = f"Triggered by the rehearsal, which kills the {victim}."
            _, now = retrain(stage, api, url, conf=conf, note=note, sleep=_both(sleep, killer))
        finally:
            killer.give_up.set()
            killer.join()
        if killer.killed is None:
            msg = f"The fine-tuning had ended before the {victim} could be killed."
            raise DagError(msg)
        tries = max(int(task["try_number"]) for task in now if str(task["task_id"]).endswith(_TASK))
        arms = _same(aside, folder)
        stage.console.print(
            f"  {victim} was killed (pid {killer.killed}); {tries} tries, {arms} arms with the same weights"
        )
        found.append(Killed(victim=victim, tries=tries, arms=arms))
        folder.rename(folder.with_name(f"{folder.name}-{victim}"))
    aside.rename(folder)
    return found


class _Killer(threading.Thread):
    """Waits for the trainer, lets it work for a while, and kills."""

    def __init__(self, processes: Processes, victim: str, *, after_s: float) -> None:
        super().__init__(daemon=True)
        self._processes, self._victim, self._after_s = processes, victim, after_s
        self.give_up = threading.Event()
        self.killed: int | None = None
        self.failure: DagError | None = None

    def run(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while (trainer := self._trainer()) is None:
            if time.monotonic() > deadline or self.give_up.wait(0.2):
                return
        if self.give_up.wait(self._after_s) or not trainer.is_running():
            return
        target = trainer if self._victim == "trainer" else self._program(self._victim)
        if target is None:
            return
        target.send_signal(signal.SIGKILL)
        self.killed = target.pid
        if self._victim != "trainer":
            try:
                self._processes.restart(self._victim)
            except DagError as error:
                self.failure = error

    def _trainer(self) -> psutil.Process | None:
        worker = process.find(self._processes.pid_file("gpu-worker"))
        for each in process.family(worker) if worker is not None else ():
            try:
                # Not the guard before it, whose arguments have the same words.
                if "--run-key" in each.cmdline() and "--" not in each.cmdline():
                    return each
            except psutil.Error:
                continue
        return None

    def _program(self, service: str) -> psutil.Process | None:
        """The program itself, which the guard would outlive."""
        guard = process.find(self._processes.pid_file(service))
        children = guard.children() if guard is not None else []
        return children[0] if children else None


def _both(sleep: Callable[[float], None], killer: _Killer) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        if killer.failure is not None:
            raise killer.failure
        sleep(seconds)

    return wait


def _duration(task: Mapping[str, Any]) -> float:
    if not task["start_date"] or not task["end_date"]:
        msg = f"Airflow does not say when {task['task_id']} of the DAG '{DAG}' began and ended."
        raise AirflowUnavailable(msg)
    return (datetime.fromisoformat(task["end_date"]) - datetime.fromisoformat(task["start_date"])).total_seconds()


def _same(before: Path, after: Path) -> int:
    """How many arms two folders of a run key have, all of them the same.

    Raises:
        DagError: an arm is missing, or a weight is another one.
    """
    import torch

    # The original model is laid beside the arms as it is, and would be the same whatever happens.
    states = sorted(path.relative_to(before) for path in before.glob(f"*/{_STATE}") if path.parent.name != ORIGINAL)
    for path in states:
        if not (after / path).exists():
            msg = f"After the kill {after / path} is missing."
            raise DagError(msg)
        one, other = (torch.load(place / path, weights_only=True) for place in (before, after))
        different = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
        if one.keys() != other.keys() or different:
            msg = (
                f"{after / path} is another model than {before / path}: {len(different)} of {len(one)} tensors differ."
            )
            raise DagError(msg)
    return len(states)
