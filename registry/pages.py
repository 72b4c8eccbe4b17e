"""Addresses of MLflow's pages. Each opens MLflow's "Model training" side: left to itself it opens the one for language models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

_SIDE = "workflowType=machine_learning"


def runs_page(experiment_id: str) -> str:
    """An experiment's runs. Like the others, to be put behind a server's address and a slash."""
    return f"#/experiments/{experiment_id}/runs?{_SIDE}"


def run_page(experiment_id: str, run_id: str) -> str:
    """A run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{_SIDE}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """A run's artifact."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}?{_SIDE}"


def comparison_page(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Runs side by side, in this order."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{_SIDE}"


def model_page(name: str) -> str:
    """A registered model with its versions."""
    return f"#/models/{quote(name)}?{_SIDE}"


def version_page(name: str, version: str) -> str:
    """A version of a registered model."""
    return f"#/models/{quote(name)}/versions/{version}?{_SIDE}"


def artifact(run_id: str, path: str) -> str:
    """A run's artifact itself: what a picture in a run's description points to."""
    return f"get-artifact?path={quote(path)}&run_uuid={run_id}"


def comparison_text(experiment_id: str, run_id: str, arms: Mapping[str, Mapping[str, Any]], *, about: str) -> str:
    """Text for a run above others, Markdown: what they came to, best first, the picture of that, and where they are compared.

    Args:
        experiment_id: of all the runs.
        run_id: the run above; ``comparison.png`` is among its artifacts.
        arms: name → ``run_id``, ``recovery_ratio``, ``accuracy`` and ``macro_f1``.
        about: a sentence to begin with.
    """
    best_first = sorted(arms.items(), key=lambda item: float(item[1]["recovery_ratio"]), reverse=True)
    compare = comparison_page(experiment_id, [str(arm["run_id"]) for _, arm in best_first])
    # Spaces that do not break, because MLflow sets a table's columns without any between them.
    rows = [
        f"| {name} | "
        + " | ".join(f"&emsp;{arm[key]:.3f}" for key in ("recovery_ratio", "accuracy", "macro_f1"))
        + " |"
        for name, arm in best_first
    ]
    head = "| arm | &emsp;recovery ratio | &emsp;accuracy | &emsp;macro-F1 |"
    picture = f"![comparison]({artifact(run_id, 'comparison.png')})"
    return "\n".join([f"{about} [Compare the arms]({compare})", "", head, "|---|---|---|---|", *rows, "", picture])
