"""Addresses of MLflow's pages. Each opens MLflow's "Model training" side: left to itself it opens the one for language models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

_SIDE = "workflowType=machine_learning"
LONGEST = 7900
"""Characters of a description: more, MLflow may refuse."""


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


def dag_run_text(experiment_id: str, cohorts: Sequence[Mapping[str, Any]], *, about: str) -> str:
    """Text for the run of a DAG run, Markdown: a row a cohort, with each arm's recovery ratio and what became of it, and the reasons below.

    What does not fit is left out, with a line that says how much: MLflow takes 8000 characters.

    Args:
        experiment_id: of all the runs.
        cohorts: each with ``cohort``, ``run_id`` (None: not trained), ``trained`` (by which DAG run, in words), ``arms`` (name →
            ``recovery_ratio`` and more), ``outcome`` (in words) and ``reasons``.
        about: to begin with.
    """
    arms = list(dict.fromkeys(arm for each in cohorts for arm in each["arms"]))
    head = "".join(
        f"| {name} " for name in ("cohort", *(f"&emsp;{arm}" for arm in arms), "&emsp;verdict", "&emsp;trained")
    )
    lines = [about, "", f"{head}|", f"|{'---|' * (len(arms) + 3)}"]
    for each in cohorts:
        name = _cell(each["cohort"])
        linked = f"[{name}]({run_page(experiment_id, each['run_id'])})" if each["run_id"] else name
        ratios = [f"{each['arms'][arm]['recovery_ratio']:.3f}" if arm in each["arms"] else "–" for arm in arms]
        cells = (linked, *(f"&emsp;{text}" for text in (*ratios, _cell(each["outcome"]), _cell(each["trained"]))))
        lines.append("".join(f"| {cell} " for cell in cells) + "|")
    rows, said = len(lines), [f"- {each['cohort']}: {reason}" for each in cohorts for reason in each["reasons"]]
    lines += ["", *(["Numbers are recovery ratios."] if arms else []), *([""] if said else []), *said]
    text = "\n".join(lines)
    if len(text) <= LONGEST:
        return text
    kept = lines[:4]
    for line in lines[4:rows]:
        if len("\n".join((*kept, line))) > LONGEST - 100:
            break
        kept.append(line)
    left = rows - len(kept)
    more = f"{left} more cohorts, and the reasons, are in `runs.json`." if left else "The reasons are in `runs.json`."
    return "\n".join([*kept, "", more])


def _cell(text: str) -> str:
    """In a table a bar would begin the next cell."""
    return text.replace("|", "\\|")
