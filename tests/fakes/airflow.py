"""A double of Airflow's API, as far as the client uses it: what it holds is set by the test, and may change while it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

PASSWORD = "secret"


@dataclass(kw_only=True)
class FakeAirflow:
    """State of one Airflow, and what it was asked."""

    health: dict[str, Any] = field(default_factory=dict)
    dags: dict[str, dict[str, Any]] = field(default_factory=dict)
    import_errors: list[dict[str, Any]] = field(default_factory=list)
    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    """Task → what its log says."""
    tokens: int = 0
    """Log-ins so far; only the newest token counts."""
    asked: list[str] = field(default_factory=list)
    before: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None
    """Asked first: may answer in Airflow's place, or raise."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        early = self.before(request)
        if early is not None:
            return early
        if request.url.path == "/auth/token":
            return self._log_in(json.loads(request.content))
        if request.url.path == "/api/v2/monitor/health":
            return httpx.Response(200, json=self.health)
        if request.headers.get("authorization") != f"Bearer token-{self.tokens}":
            return httpx.Response(401, json={"detail": "Invalid JWT token"})
        body = json.loads(request.content) if request.content else {}
        return self._answer(request.method, request.url.path.removeprefix("/api/v2/").split("/"), body)

    def _log_in(self, body: dict[str, Any]) -> httpx.Response:
        if body != {"username": "admin", "password": PASSWORD}:
            return httpx.Response(401, json={"detail": "Invalid credentials"})
        self.tokens += 1
        return httpx.Response(201, json={"access_token": f"token-{self.tokens}"})

    def _answer(self, method: str, path: list[str], body: dict[str, Any]) -> httpx.Response:
        answer: Any = None
        match method, path:
            case "GET", ["importErrors"]:
                answer = {"import_errors": self.import_errors}
            case "GET" | "PATCH", ["dags", dag_id]:
                answer = self._changed(self.dags, dag_id, body)
            case "GET", ["pools", name]:
                answer = self.pools.get(name)
            case "PATCH", ["pools", name] if name == body.pop("pool"):
                answer = self._changed(self.pools, name, body)
            case "POST", ["pools"]:
                answer = self.pools.setdefault(body["name"], body)
            case "GET", ["dags", _, "dagRuns"]:
                answer = {"dag_runs": [run for run in self.runs.values() if run["state"] in {"queued", "running"}]}
            case "POST", ["dags", _, "dagRuns"]:
                run_id = f"run-{len(self.runs)}"
                answer = self.runs[run_id] = {"dag_run_id": run_id, "state": "queued", **body}
            case "GET" | "PATCH", ["dags", _, "dagRuns", run_id]:
                answer = self._changed(self.runs, run_id, body)
            case "GET", ["dags", _, "dagRuns", run_id, "taskInstances"] if run_id in self.runs:
                answer = {"task_instances": self.tasks}
            case "GET", ["dags", _, "dagRuns", _, "taskInstances", task, "logs", _] if task in self.logs:
                answer = {"content": [{"event": text} for text in self.logs[task]]}
        if answer is None:
            return httpx.Response(404, json={"detail": f"{'/'.join(path)} was not found"})
        return httpx.Response(200, json=answer)

    @staticmethod
    def _changed(known: dict[str, dict[str, Any]], name: str, change: dict[str, Any]) -> dict[str, Any] | None:
        if name in known:
            known[name].update(change)
        return known.get(name)
