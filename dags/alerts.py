"""Telling somebody that a retraining is late."""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any

_log = logging.getLogger(__name__)
_SECONDS = 10.0


def late(*, within: str, context: Any = None) -> None:
    """Called by Airflow when a run has missed its deadline: into the log, and to ``[retrain] alert_url``.

    Args:
        within: how long the run had, in words.
        context: what Airflow says of the run.
    """
    from dags.settings import load

    run = (context or {}).get("dag_run", {})
    dag_id, run_id = run.get("dag_id"), run.get("dag_run_id")
    text = f"Run {run_id} of the DAG '{dag_id}' has not ended within {within} ([retrain] deadline). It goes on; Airflow says where it is."
    _log.error("%s", text)
    url = load().retrain.alert_url
    if not url:
        return
    body = json.dumps({"text": text, "dag_id": dag_id, "run_id": run_id}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - the operator's own address
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
            pass
    except OSError as error:
        _log.error("[retrain] alert_url cannot be reached: %s", error)
