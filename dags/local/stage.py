"""What the demo and the rehearsal have in common: numbered steps, ``sensorloop`` commands, and one run of the DAG ``retrain``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from dags.errors import AirflowError, CommandRefused, DagError
from dags.local.airflow_api import AirflowApi, instance
from streaming import guard

DAG = "retrain"
COHORTS = ("source", "target")
"""Of the simulated fleets: what the original model learns from, and the new phones."""
_GRACE_S = 10.0
_NOT_SAID = ("$ ", "::")
"""Begin lines of a task's log that tell nobody how far it is: the command that it runs, and Airflow's groups of lines."""
_LOOK_S, _SAY_S = 10.0, 60.0
"""Between two looks into a running task's log, and between two lines of what it says where there is no terminal to renew one on."""


@dataclass(kw_only=True, slots=True)
class Stage(ABC):
    """Where a whole loop is shown: what it writes, what it says, and how long each step took."""

    place: Path
    """Everything it writes."""
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    @property
    @abstractmethod
    def environ(self) -> Mapping[str, str]:
        """The whole environment of its commands."""

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """A step: its title is shown, its duration noted."""
        self.steps += 1
        self.console.rule(f"[bold]{self.steps}. {title}", align="left")
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 1)

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run a ``sensorloop`` command; its progress is shown, its answer returned.

        Raises:
            CommandRefused: it did not work; it has said why.
        """
        self.console.print(f"[dim]$ sensorloop {escape(' '.join(arguments))}")
        # Below a guard and in a session of its own: it ends when we do, however we do, and Ctrl-C is ours to pass on.
        guarded = (sys.executable, "-P", guard.__file__, str(os.getpid()), str(_GRACE_S), "--")
        program = (sys.executable, "-m", "sensorloop", *arguments)
        with subprocess.Popen(
            (*guarded, *program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(self.environ),
            start_new_session=True,
            text=True,
        ) as child:
            try:
                out, _ = child.communicate()
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait(_GRACE_S + 5)
        if child.returncode:
            msg = (
                f"'sensorloop {' '.join(arguments)}' ended with exit code {child.returncode}; the reason stands above."
            )
            raise CommandRefused(msg)
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return answer


def retrain(
    stage: Stage,
    api: AirflowApi,
    url: str,
    *,
    conf: Mapping[str, Any],
    note: str,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trigger the DAG and wait.

    Args:
        stage: where the tasks' states are shown.
        api: Airflow's.
        url: where its pages are, for people.
        conf: the run's parameters.
        note: for whoever sees the run in Airflow's pages.
        sleep: how to wait between two looks.
        clock: seconds.

    Returns:
        Each task's answer, by its name within the cohort, and what Airflow knows about each.

    Raises:
        DagError: a task failed; the end of its log is shown.
    """
    run_id = api.trigger(DAG, conf, note=note)
    shown: dict[str, str | None] = {}

    def report(states: Mapping[str, str | None]) -> None:
        for task, state in states.items():
            if state and shown.get(task) != state:
                stage.console.print(f"  {task:<20} {state}")
        shown.update(states)

    where = f"Airflow works; see {url}/dags/{DAG}/runs/{run_id}"
    with stage.console.status(where) as status:
        told = _Told(api, run_id, stage.console, lambda text: status.update(f"{where}\n  [dim]{escape(text)}"), clock)

        def wait(seconds: float) -> None:
            told.look()
            sleep(seconds)

        state = api.wait_for_run(DAG, run_id, timeout=timedelta(hours=6), report=report, sleep=wait)
    tasks = api.tasks(DAG, run_id)
    if state != "success" or any(task["state"] != "success" for task in tasks):
        failed = next((t for t in tasks if t["state"] not in {"success", None}), tasks[-1])
        text = api.task_log(DAG, run_id, failed["task_id"], failed["try_number"], map_index=failed["map_index"])
        log = "\n".join(text[-20:])
        msg = f"Task '{instance(failed)}' of run {run_id} ended as {failed['state']}:\n{log}"
        raise DagError(msg)
    answers = {
        task["task_id"].removeprefix("cohort."): api.xcom(DAG, run_id, task["task_id"], map_index=task["map_index"])
        for task in tasks
    }
    return answers, tasks


class _Told:
    """How far the running task is, in the words of its log: fine-tuning takes minutes, and who hears nothing takes it for hung."""

    def __init__(
        self,
        api: AirflowApi,
        run_id: str,
        console: Console,
        renew: Callable[[str], object],
        clock: Callable[[], float],
    ) -> None:
        """Nothing is asked yet.

        Args:
            api: Airflow's.
            run_id: the run.
            console: gets a line now and then, unless it is a terminal.
            renew: shows a text on a terminal, in place of the one before.
            clock: seconds.
        """
        self._api, self._run_id, self._console, self._renew, self._clock = api, run_id, console, renew, clock
        self._looked = self._said = clock()
        self._last = ""

    def look(self) -> None:
        """Show what a running task said last, if it is time to and something new; on a terminal also that none says anything."""
        if self._clock() - self._looked < _LOOK_S:
            return
        self._looked = self._clock()
        text = self._text()
        if text == self._last:
            return
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._renew(text)
        elif text and self._clock() - self._said >= _SAY_S:
            self._said = self._clock()
            self._console.print(f"  {text}", markup=False, soft_wrap=True)
        else:
            return
        self._last = text

    def _text(self) -> str:
        """What the task says that began last, of those that say anything."""
        # No log, or none that can be read: of a task that is being started, by a server that is busy. No reason to end a run.
        with contextlib.suppress(AirflowError, ValueError, LookupError, TypeError):
            running = [task for task in self._api.tasks(DAG, self._run_id) if task["state"] == "running"]
            for task in reversed(running):
                lines = self._api.task_log(
                    DAG, self._run_id, task["task_id"], task["try_number"], map_index=task["map_index"]
                )
                said = [line.strip() for line in lines if line.strip() and not line.startswith(_NOT_SAID)]
                if said:
                    return f"{instance(task)}: {said[-1].splitlines()[0]}"
        return ""
