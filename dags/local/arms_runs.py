"""What ``sensorloop experiment`` finds, in MLflow: a run a pair of data sets, below it a run a cell.

MLflow is a copy here: cells and tables are on the disk. So whatever it does, the experiment goes on: what went wrong is said once, and
nothing more is logged. What is not there is logged by the next call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags.settings import Settings
from dags.steps import arms_tracker, mlflow_client
from dags.terminal import say
from registry import pages
from registry.errors import RegistryError

if TYPE_CHECKING:
    from registry.tracker import MlflowRunLog, MlflowTracker
    from training.experiment import Pair
    from training.tracking import RunLog
    from training.transfer import Row


class ArmsRuns:
    """The runs of a pair; silent where MLflow is of no use."""

    def __init__(self, settings: Settings) -> None:
        """See whether MLflow answers."""
        self._settings = settings
        self._tracker: MlflowTracker | None = None
        self._pair: tuple[str, dict[str, str]] = "", {}
        self._log: MlflowRunLog | None = None
        self._known: set[str] = set()
        try:
            self._tracker = arms_tracker(settings, mlflow_client(settings))
        except RegistryError as error:
            self._without(error)

    @property
    def run_id(self) -> str:
        """Of the pair's run; empty without one."""
        return self._log.run_id if self._log else ""

    @property
    def url(self) -> str:
        """Of its page; empty where there is none."""
        uri = self._settings.registry.tracking_uri.rstrip("/")
        if not self._log or not self._tracker or not uri.startswith("http"):
            return ""
        return f"{uri}/{pages.run_page(self._tracker.experiment_id, self.run_id)}"

    def begin(self, pair: Pair) -> None:
        """Make the pair's run, or find it: it is one for these data and settings."""
        from training.runkey import decisive
        from training.tracking import log_data

        settings = self._settings
        # Of what decides the cells alone: an experiment draws its own people, and where it is computed makes no other run.
        data = replace(settings.data, holdout_subjects=(), verified_by=())
        recipe = decisive(data, settings.quality, settings.finetune)
        digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
        self._pair = pair.name, {"run_key": f"{pair.original.digest} {pair.target.digest()} {digest}"}

        def tell(tracker: MlflowTracker, log: MlflowRunLog) -> None:
            log.params(recipe)
            log_data(log, source=pair.source, target=pair.target)
            self._log, self._known = log, tracker.finished_below(log)

        self._in_the_pairs_run(tell)

    def cell(self, cell: Mapping[str, Any]) -> None:
        """Log a cell of :meth:`training.experiment.Experiment.run`, if it is not there."""
        if self._log is None or cell["key"] in self._known:
            return
        above = self._log
        tags = {"run_key": cell["key"], **{name: str(cell[name]) for name in ("pair", "regime", "seed", "arm")}}
        name = f"{cell['regime']}, {cell['seed']}: {cell['arm']}"

        def tell(tracker: MlflowTracker) -> None:
            with tracker.run(name, parent=above, tags=tags) as run:
                _tell(run, cell)

        self._while_it_answers(tell)

    def table(self, found: Sequence[Row], text: str, files: Sequence[Path]) -> None:
        """Log what the cells come to: numbers, files, and text and pictures for the page."""

        def tell(_: MlflowTracker, log: MlflowRunLog) -> None:
            for file in files:
                log.file(file)
            for name in ("macro_f1", "recovery_ratio"):
                log.metrics({f"{row.regime}/{row.arm}/{name}": getattr(row, name) for row in found})
            shown = {file.stem: pages.artifact(log.run_id, file.name) for file in files if file.suffix == ".png"}
            pictures = "\n\n".join(f"![{name}, each arm]({each})" for name, each in shown.items())
            fits = len(text) + len(pictures) < pages.LONGEST
            log.describe(f"{text if fits else 'The table is transfer.md, among the artifacts.'}\n\n{pictures}")

        self._in_the_pairs_run(tell)

    def _in_the_pairs_run(self, tell: Callable[[MlflowTracker, MlflowRunLog], None]) -> None:
        name, tags = self._pair

        def in_it(tracker: MlflowTracker) -> None:
            with tracker.run(name, tags=tags) as log:
                tell(tracker, log)

        self._while_it_answers(in_it)

    def _while_it_answers(self, tell: Callable[[MlflowTracker], None]) -> None:
        from registry.connection import check_answers

        if self._tracker is None:
            return
        try:
            # MLflow's client itself would go on trying for minutes.
            check_answers(self._settings.registry.tracking_uri)
            tell(self._tracker)
        except RegistryError as error:
            self._without(error)
        # MLflow's client writes artifacts itself, by whatever library their place asks for: a disk that is the server's alone is an
        # OSError, a bucket without its library or its keys something else.
        except Exception as error:  # noqa: BLE001  (what is on the disk is worth more than its copy)
            self._without(f"What was found could not be logged to MLflow: {type(error).__name__}: {error}")

    def _without(self, error: Exception | str) -> None:
        self._tracker = None
        say(f"{error}\nThe experiment goes on without MLflow: its cells and its table are on the disk.")


def _tell(run: RunLog, cell: Mapping[str, Any]) -> None:
    from training.tracking import as_params

    chosen = {name: cell[name] for name in ("regime", "seed", "arm", "train_windows", "wrong")}
    run.params({**chosen, **as_params(cell["details"])})
    for step, values in cell.get("curves", ()):
        run.metrics(values, step=step)
    recall = {f"target/recall/{scene}": value for scene, value in cell["recall"].items() if value is not None}
    numbers = {"target/accuracy": cell["accuracy"], "target/macro_f1": cell["macro_f1"], **recall}
    run.metrics({**numbers, "recovery_ratio": cell["recovery_ratio"], "seconds": cell["seconds"]})
