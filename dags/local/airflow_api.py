"""A small client of Airflow's public API (``/api/v2``): what it takes to trigger a DAG and to see what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import httpx

from dags.errors import AirflowError, AirflowUnavailable, DagMissing

UNFINISHED = frozenset({"queued", "running"})
"""States of a run that will still change."""

_ASK_SECONDS = 30.0
_POLL = timedelta(seconds=1)


class AirflowApi:
    """A user's session with one Airflow. It logs in when it has to, and closes its connections when used with ``with``."""

    def __init__(self, url: str, user: str, password: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """Remember whom to ask; nothing is asked yet.

        Args:
            url: where Airflow is, ``http://127.0.0.1:28080``.
            user: who asks.
            password: that user's.
            transport: how requests are sent; None for the network.
        """
        self._user, self._password = user, password
        # A proxy named by the environment is meant for other networks than the one Airflow is on.
        self._client = httpx.Client(base_url=url, timeout=_ASK_SECONDS, trust_env=False, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def healthy(self, since: datetime | None = None) -> bool:
        """Whether database, scheduler and DAG processor are well; no log-in needed. Says no rather than raise.

        Args:
            since: signs of life from before do not count: they may be those of processes that have been replaced.
        """
        try:
            answer = self._client.get("/api/v2/monitor/health")
            health = answer.raise_for_status().json()
            parts = ("metadatabase", "scheduler", "dag_processor")
            beats = [health[name][f"latest_{name}_heartbeat"] for name in parts[1:]]
            return all(health[name]["status"] == "healthy" for name in parts) and all(_fresh(b, since) for b in beats)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False

    def serves_tasks(self) -> bool:
        """Whether the part of the API that tasks talk to answers. Says no rather than raise.

        It is built when it is first asked, in 3 s of computing during which nothing else is answered. Tasks would run
        into their own time-out.
        """
        try:
            return self._client.get("/execution/health").is_success
        except httpx.HTTPError:
            return False

    def set_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, or change the one there is.

        Args:
            name: its name.
            slots: tasks at a time.
            description: for whoever sees it in Airflow's pages.
        """
        pool = {"slots": slots, "description": description, "include_deferred": False}
        known = self._ask("GET", f"/pools/{name}", allow=(httpx.codes.NOT_FOUND,))
        if known.status_code == httpx.codes.NOT_FOUND:
            self._ask("POST", "/pools", json={**pool, "name": name})
        else:
            self._ask("PATCH", f"/pools/{name}", json={**pool, "pool": name})

    def wait_for_dag(
        self,
        dag_id: str,
        *,
        since: datetime | None = None,
        timeout: timedelta = timedelta(minutes=2),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Wait until Airflow has read a DAG's file.

        Args:
            dag_id: the DAG; its file is ``<dag_id>.py``.
            since: what was read before that does not count.
            timeout: how long to wait.
            sleep: how to wait.

        Raises:
            DagMissing: its file cannot be imported (the message has the reason), or it was not read in time.
        """

        def known() -> bool:
            for error in self._ask("GET", "/importErrors").json()["import_errors"]:
                if str(error["filename"]).endswith(f"{dag_id}.py") and _fresh(error["timestamp"], since):
                    msg = f"Airflow cannot read {error['filename']}:\n{error['stack_trace'].strip()}"
                    raise DagMissing(msg)
            answer = self._ask("GET", f"/dags/{dag_id}", allow=(httpx.codes.NOT_FOUND,))
            return answer.status_code == httpx.codes.OK and _fresh(answer.json()["last_parsed_time"], since)

        if not _until(known, timeout=timeout, sleep=sleep):
            msg = f"Airflow has not read the DAG '{dag_id}' within {timeout}: see the log of its DAG processor."
            raise DagMissing(msg)

    def unpause(self, dag_id: str) -> None:
        """Switch a DAG on; a triggered run of one that is off waits for ever."""
        self._ask("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, note: str | None = None) -> str:
        """Start a run.

        Args:
            dag_id: the DAG.
            conf: its parameters; what is not named has its default.
            note: for whoever sees the run in Airflow's pages.

        Returns:
            The run's id.
        """
        body = {"logical_date": None, "conf": dict(conf or {}), "note": note}
        return str(self._ask("POST", f"/dags/{dag_id}/dagRuns", json=body).json()["dag_run_id"])

    def fail_unfinished(self, dag_id: str) -> list[str]:
        """Give up every run that has not ended; what an interrupted Airflow left behind would hold up the next run.

        Returns:
            Their ids.
        """
        runs = self._ask("GET", f"/dags/{dag_id}/dagRuns", params={"state": sorted(UNFINISHED)}).json()["dag_runs"]
        ids = [str(run["dag_run_id"]) for run in runs]
        for run_id in ids:
            self._ask("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})
        return ids

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """What Airflow knows about each task: ``task_id``, ``state``, ``try_number``, ``start_date``, …; in the order they began."""
        found = self._ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()["task_instances"]
        return sorted(found, key=lambda task: (task["start_date"] is None, task["start_date"] or ""))

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Each task's state (``success``, ``failed``, ``skipped``, ``running``, ``up_for_retry``, …); None before its turn.

        Of a task that is mapped, ``task[0]``, ``task[1]``, ….
        """
        return {instance(task): task["state"] for task in self.tasks(dag_id, run_id)}

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, *, map_index: int = -1
    ) -> list[str]:
        """The messages of a task's log, without those about where the log is kept."""
        place = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self._ask("GET", place, params={"full_content": True, "map_index": map_index}).json()["content"]
        return [line if isinstance(line, str) else _message(line) for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        """What a task handed on; None if it handed on nothing."""
        place = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        asked = {"deserialize": False, "map_index": map_index}
        answer = self._ask("GET", place, params=asked, allow=(httpx.codes.NOT_FOUND,))
        return None if answer.status_code == httpx.codes.NOT_FOUND else answer.json()["value"]

    def links(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, str | None]:
        """The buttons beside a task, name to address."""
        place = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        return dict(self._ask("GET", place, params={"map_index": map_index}).json()["extra_links"])

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout: timedelta,
        report: Callable[[Mapping[str, str | None]], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> str:
        """Wait until a run has ended.

        Args:
            dag_id: the DAG.
            run_id: the run.
            timeout: how long to wait.
            report: called with :meth:`task_states` whenever one has changed.
            sleep: how to wait.

        Returns:
            Its last state, ``success`` or ``failed``.

        Raises:
            AirflowUnavailable: it has not ended in time.
        """
        seen: dict[str, str | None] = {}
        state = ""

        def ended() -> bool:
            nonlocal state, seen
            state, states = self.run_state(dag_id, run_id), self.task_states(dag_id, run_id)
            if states != seen:
                seen = states
                report(states)
            return state not in UNFINISHED

        if not _until(ended, timeout=timeout, sleep=sleep):
            msg = f"Run {run_id} of the DAG '{dag_id}' is still {state} after {timeout}: {seen}"
            raise AirflowUnavailable(msg)
        return state

    def _ask(self, method: str, path: str, *, allow: tuple[int, ...] = (), **request: Any) -> httpx.Response:
        if "authorization" not in self._client.headers:
            self._log_in()
        answer = self._send(method, f"/api/v2{path}", **request)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # tokens last a day
            self._log_in()
            answer = self._send(method, f"/api/v2{path}", **request)
        if answer.is_error and answer.status_code not in allow:
            msg = f"Airflow refuses {method} {answer.url}: {answer.status_code} {_reason(answer)}"
            kind = AirflowUnavailable if answer.is_server_error else AirflowError
            raise kind(msg)
        return answer

    def _log_in(self) -> None:
        answer = self._send("POST", "/auth/token", json={"username": self._user, "password": self._password})
        if answer.is_error:
            msg = f"Airflow at {self._client.base_url} does not let '{self._user}' in: {answer.status_code} {_reason(answer)}"
            raise AirflowError(msg)
        self._client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **request)
        except httpx.TransportError as error:
            msg = f"Airflow at {self._client.base_url} does not answer: {error or type(error).__name__}"
            raise AirflowUnavailable(msg) from error


def instance(task: Mapping[str, Any]) -> str:
    """What messages call a task that :meth:`AirflowApi.tasks` tells of; of one that is mapped, with its number."""
    index = task.get("map_index", -1)
    return str(task["task_id"]) if index < 0 else f"{task['task_id']}[{index}]"


def _until(done: Callable[[], bool], *, timeout: timedelta, sleep: Callable[[float], None]) -> bool:
    """Ask again and again; a server that is too busy to answer is asked once more."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            if done():
                return True
        except AirflowUnavailable:
            if time.monotonic() >= deadline:
                raise
        if time.monotonic() >= deadline:
            return False
        sleep(_POLL.total_seconds())


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _fresh(text: str | None, since: datetime | None) -> bool:
    return since is None or (text is not None and _moment(text) >= since)


def _message(line: Mapping[str, Any]) -> str:
    """A structured line with its error, if it has one: the exceptions' own words, not where in the code they were raised."""
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in line.get("error_detail") or ()]
    return "\n".join([str(line.get("event", "")), *errors])


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
