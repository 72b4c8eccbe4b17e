"""Training runs in MLflow.

A run is found again by its key: a training that was killed and resumes goes on in its own run rather than in a second one.
Metrics of a step that the first part has already logged are left out then, so that curves have one point a step.

Nothing here uses MLflow's "active run": which run is meant is always said.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as FoundRun
from mlflow.exceptions import MlflowException

from registry.connection import ALREADY_EXISTS, as_ours, mlflow_errors
from registry.errors import TrackingError
from registry.measured import system_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_KEY = "run_key"
"""Tag that makes a run one: the same key, name and parent is the same run."""
DAG_RUN = "dag_run"
"""Tag that names the DAG run that made a run, ``<DAG>/<run>``. A run that has it is below that DAG run's own, or is it; that is
where it stands, and no part of what makes it one."""

_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_BATCH = 100  # parameters and tags in a request; MLflow refuses more
_METRICS = 1000
_DIGEST = 36  # characters that MLflow's database has room for

_REFUSED = re.compile(r"[^\w.\- ]")
"""What stands in no name of a metric, beside ``/``."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Run(Protocol):
    """Anything that is a run."""

    @property
    def run_id(self) -> str:
        """MLflow's id of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Above:
    """The run of a DAG run, see :mod:`registry.dag_runs`."""

    run_id: str
    dag_run: str
    """What its tag ``dag_run`` says."""


class MlflowTracker:
    """Starts runs in an experiment.

    Args:
        client: of the server to log to.
        experiment: name of the experiment; it is made if there is none.
        tags: set on every run, such as :func:`environment`.
        above: run of the DAG run that this is done for. A run without another parent is made below it; one that is found again stays where
            it is.
        note: text on the experiment's page, Markdown; set when the experiment is made, so that what people write stays.
        system_metrics_every: between two looks at CPU, memory, disk, network and GPU while a run is under way; None for none.

    Raises:
        TrackingError: MLflow refused (an experiment of this name is in the trash, say).
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        *,
        tags: Mapping[str, str] | None = None,
        above: Above | None = None,
        note: str = "",
        system_metrics_every: timedelta | None = None,
    ) -> None:
        self._client = client
        self._every = system_metrics_every
        self._tags = dict(tags or {})
        self._above = above
        self._experiment_id = _experiment(client, experiment, note)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return self._experiment_id

    @contextmanager
    def run(
        self, name: str, *, parent: Run | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator[MlflowRunLog]:
        """A run, for as long as the block takes.

        It ends as FINISHED, as FAILED after an exception, and as KILLED after a KeyboardInterrupt, SystemExit and the like. A
        process that dies leaves it RUNNING; who resumes with the same key goes on in it.

        Args:
            name: shown in MLflow; short, and the same for the same thing in every run.
            parent: the run that this one is a part of: an arm, a cohort. The data sets that it has named are this run's, too.
            tags: for searching. With ``run_key``, the run of that key, name and parent is continued if there is one.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        tags = {**self._tags, **(tags or {}), **({_PARENT: parent.run_id} if parent else {})}
        with mlflow_errors(f"start run '{name}'"):
            found = find(self._client, self._experiment_id, name, tags)
            resumed = found is not None
            if found is None:
                # In the request that makes it: a run that was made and then not put there would stay where it is.
                place = (
                    {_PARENT: self._above.run_id, DAG_RUN: self._above.dag_run} if self._above and not parent else {}
                )
                made = self._client.create_run(self._experiment_id, tags={**tags, **place}, run_name=name)
                run_id = made.info.run_id
            else:
                run_id = found.info.run_id
                self._client.update_run(run_id, status="RUNNING")
            if parent and (inputs := self._client.get_run(parent.run_id).inputs) and inputs.dataset_inputs:
                # Those that the run has already are left out by MLflow.
                self._client.log_inputs(run_id, inputs.dataset_inputs)
        log = MlflowRunLog(self._client, run_id, resumed=resumed)
        if resumed:
            log.tags(tags)
        try:
            with system_metrics(self._client, run_id, every=self._every, resumed=resumed):
                yield log
        except Exception as error:
            self._end(run_id, "FAILED", error)
            raise
        except BaseException as error:
            self._end(run_id, "KILLED", error)
            raise
        with mlflow_errors(f"finish run '{name}'"):
            self._client.set_terminated(run_id, "FINISHED")

    def finished_below(self, parent: Run) -> set[str]:
        """Run keys of the runs that are a part of this one and have ended well.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        wanted, found, page = (
            f"tags.`{_PARENT}` = {_quoted(parent.run_id)} and attributes.status = 'FINISHED'",
            set[str](),
            None,
        )
        with mlflow_errors(f"look up the runs below run {parent.run_id}"):
            while page != "":
                runs = self._client.search_runs([self._experiment_id], wanted, page_token=page or None)
                found |= {run.data.tags[RUN_KEY] for run in runs if RUN_KEY in run.data.tags}
                page = runs.token or ""
        return found

    def _end(self, run_id: str, status: str, error: BaseException) -> None:
        """What went wrong must reach the caller even if MLflow is what went wrong."""
        try:
            self._client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:1000])
            self._client.set_terminated(run_id, status)
        except MlflowException:
            _log.warning("MLflow could not be told that run %s ended as %s", run_id, status, exc_info=True)


class MlflowRunLog:
    """What a run says about itself. Names with ``/`` are grouped in MLflow's pages: ``target/accuracy``, ``recall/Walk``."""

    def __init__(self, client: MlflowClient, run_id: str, *, resumed: bool) -> None:
        self._client = client
        self._run_id = run_id
        self._resumed = resumed
        self._steps_before: dict[str, int] | None = None if resumed else {}

    @property
    def run_id(self) -> str:
        """MLflow's id of this run."""
        return self._run_id

    @property
    def resumed(self) -> bool:
        """Whether this run was started by an earlier process."""
        return self._resumed

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted names.

        MLflow keeps the first value of a parameter for good. What a resumed run would log otherwise becomes the tag
        ``resumed.<name>``, so that neither value is lost.
        """
        flat = {name: str(value) for name, value in _flat(values)}
        with mlflow_errors(f"log parameters of run {self.run_id}"):
            if self._resumed:
                known = self._client.get_run(self.run_id).data.params
                self.tags({f"resumed.{name}": value for name, value in flat.items() if known.get(name, value) != value})
                flat = {name: value for name, value in flat.items() if name not in known}
            for some in _batches([Param(name, value) for name, value in flat.items()], _BATCH):
                self._client.log_batch(self.run_id, params=some)

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics, all in one request.

        Args:
            values: name → value; NaN is kept as such. What MLflow allows in no name becomes ``_``.
            step: epoch or other count; 0 for what is measured once. Measured again, the newer value is what MLflow shows.
        """
        now = int(time.time() * 1000)
        points = [
            Metric(name, float(value), now, step)
            for name, value in ((_metric_name(name), value) for name, value in values.items())
            if step == self._last_step(name) == 0 or step > self._last_step(name)
        ]
        with mlflow_errors(f"log metrics of run {self.run_id}"):
            for some in _batches(points, _METRICS):
                self._client.log_batch(self.run_id, metrics=some)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; later values replace earlier ones."""
        with mlflow_errors(f"tag run {self.run_id}"):
            for some in _batches([RunTag(name, str(value)) for name, value in values.items()], _BATCH):
                self._client.log_batch(self.run_id, tags=some)

    def describe(self, markdown: str) -> None:
        """The text on the run's page. An artifact's picture is ``![](get-artifact?path=…&run_uuid=…)`` there."""
        self.tags({_NOTE: markdown})

    def figure(self, figure: Figure, name: str) -> None:
        """Keep a picture; without an ending, ``name`` is a PNG. The figure is not closed."""
        with mlflow_errors(f"log picture {name} of run {self.run_id}"):
            self._client.log_figure(self.run_id, figure, _ending(name, ".png"))

    def text(self, text: str, name: str) -> None:
        """Keep a text; without an ending, ``name`` is a ``.txt``."""
        with mlflow_errors(f"log text {name} of run {self.run_id}"):
            self._client.log_text(self.run_id, text, _ending(name, ".txt"))

    def json(self, value: Any, name: str) -> None:
        """Keep a value as JSON. NaN and infinity, which JSON cannot say, become null."""
        text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)
        self.text(text, _ending(name, ".json"))

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all that is in it.

        Args:
            path: what to keep.
            folder: the folder among the run's artifacts it is put into; the top if empty.
        """
        with mlflow_errors(f"log {path} of run {self.run_id}"):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder or None)
            else:
                self._client.log_artifact(self.run_id, str(path), folder or None)

    def dataset(
        self,
        name: str,
        *,
        version: int | None,
        digest: str,
        windows: int,
        context: str,
        labels_version: int | None = None,
    ) -> None:
        """Say which data the run saw, as MLflow's own kind of input; it is shown as ``name@version``, or ``name@version labels@version``.

        Where the lake is stays out of it: the same data has the same name and digest from every machine.

        Args:
            name: of the lake's table.
            version: of that table; None if the data is from elsewhere.
            digest: of the windows chosen from it; MLflow keeps 36 characters.
            windows: how many those are.
            context: ``training``, ``holdout`` …
            labels_version: of the lake's table of labels that came later; None if there was none.
        """
        source: dict[str, Any] = {"delta_table_name": name, "delta_table_version": version}
        shown = name if version is None else f"{name}@{version}"
        if labels_version is not None:
            source["labels_version"] = labels_version
            shown += f" labels@{labels_version}"
        # MLflow keeps the first source and profile it hears of a name and digest, so the name has the version in it.
        entity = Dataset(
            name=shown,
            digest=digest[:_DIGEST],
            source_type="delta_table",
            source=json.dumps(source),
            profile=json.dumps({"num_rows": windows}),
        )
        with mlflow_errors(f"log data set {name} of run {self.run_id}"):
            self._client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def _last_step(self, name: str) -> int:
        """Last step an earlier process has logged of a metric; -1 if none."""
        if self._steps_before is None:
            with mlflow_errors(f"read what run {self.run_id} has logged"):
                names = self._client.get_run(self.run_id).data.metrics
                histories = {metric: self._client.get_metric_history(self.run_id, metric) for metric in names}
            self._steps_before = {metric: max(point.step for point in points) for metric, points in histories.items()}
        return self._steps_before.get(name, -1)


def _metric_name(name: str) -> str:
    """The name, if MLflow takes it; a scene is called as people call it, ``Sitting (car)``, and MLflow is not to lose it for that."""
    parts = (_REFUSED.sub("_", part) for part in name.split("/"))
    return "/".join("_" * max(len(part), 1) if not part.strip(".") else part for part in parts)


def find(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> FoundRun | None:
    """The oldest run that these tags make the same one; None if there is none, or if they do not name it (``run_key``, ``dag_run``).

    Raises:
        mlflow.exceptions.MlflowException: MLflow does not answer.
    """
    by = RUN_KEY if RUN_KEY in tags else DAG_RUN
    if by not in tags:
        return None
    wanted, oldest = f"tags.`{by}` = {_quoted(tags[by])}", ["attributes.start_time ASC"]
    for run in client.search_runs([experiment_id], wanted, order_by=oldest):
        theirs = run.data.tags
        # The name is compared here: it may be a cohort's, with both kinds of quotation mark in it.
        if (run.info.run_name, theirs.get(RUN_KEY), _part_of(theirs)) == (name, tags.get(RUN_KEY), _part_of(tags)):
            return run
    return None


def _part_of(tags: Mapping[str, str]) -> str | None:
    """The run that a run of these tags is a part of; a DAG run's is above it, but does not have it for a part."""
    return None if DAG_RUN in tags else tags.get(_PARENT)


def _experiment(client: MlflowClient, name: str, note: str) -> str:
    with mlflow_errors(f"look up experiment '{name}'"):
        found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        msg = (
            f"MLflow's experiment '{name}' is in the trash. Restore it there, or change its name under [registry] in "
            "sensorloop.toml."
        )
        raise TrackingError(msg)
    if found is not None:
        return str(found.experiment_id)
    try:
        return client.create_experiment(name, tags={_NOTE: note} if note else {})
    except MlflowException as error:
        if error.error_code != ALREADY_EXISTS:
            raise as_ours(error, f"make experiment '{name}'") from error
        return _experiment(client, name, note)  # somebody else was faster


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): _finite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_finite(value) for value in obj]
    return obj


def _ending(name: str, ending: str) -> str:
    return name if Path(name).suffix else f"{name}{ending}"


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _quoted(text: str) -> str:
    mark = '"' if "'" in text else "'"  # MLflow knows both kinds of quotation mark, and no escape
    return f"{mark}{text}{mark}"
