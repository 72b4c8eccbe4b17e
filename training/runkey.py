"""What names a piece of training: the same inputs and settings are the same key, and a key trains once."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from training.settings import DataSettings, FineTuneSettings, QualitySettings

RECIPE = 18
"""Counts up when the code would make something else of the same data and settings: results of the old recipe are not the new one's."""

ASKED_RECIPE = 1
"""Likewise of what asks people left out, FilterLoss among it: an experiment trains nothing anew of arms as people run them."""
FILTER_RECIPE = 4
"""Likewise of FilterLoss alone: an experiment trains nothing anew of what it is compared with."""
ORIGINAL_RECIPE = 1
"""Likewise of the code that trains original models."""


def decisive(data: DataSettings, quality: QualitySettings, finetune: FineTuneSettings) -> dict[str, Any]:
    """The settings that decide a result, by section, and the recipe of this code."""
    return {
        "recipe": f"{RECIPE}.{ASKED_RECIPE}.{FILTER_RECIPE}", "data": data.recipe(), "quality": asdict(quality),
        "finetune": finetune.recipe(),
    }  # fmt: skip


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How one :func:`decisive` differs from another, which may have been through JSON: ``[finetune] epochs (20, now 10)`` and the like."""
    before, now = (json.loads(json.dumps(each, default=str)) for each in (before, now))
    versions = before["recipe"], now["recipe"]
    found = [] if versions[0] == versions[1] else ["the version of sensorloop (recipe {}, now {})".format(*versions)]
    for section in ("data", "quality", "finetune"):
        # Nobody's being named is left out of a recipe, since keys are older than the setting.
        one, other = (
            {"verified_by": []} | each[section] if section == "data" else each[section] for each in (before, now)
        )
        found += [
            f"[{section}] {key} ({_shown(one, key)}, now {_shown(other, key)})"
            for key in sorted({**one, **other})
            if (key in one, one.get(key)) != (key in other, other.get(key))
        ]
    return found


def _shown(section: Mapping[str, Any], key: str) -> str:
    """A value as JSON, shortened; ``unset`` where there is none, as of a setting that came later."""
    return (
        textwrap.shorten(json.dumps(section[key], ensure_ascii=False), 80, placeholder=" …")
        if key in section
        else "unset"
    )


def run_key(
    *,
    cohort: str,
    lake_version: int,
    labels_version: int | None = None,
    original: str,
    data: DataSettings,
    quality: QualitySettings,
    finetune: FineTuneSettings,
    holdout: str = "",
) -> str:
    """16 hex digits of everything that decides the result.

    Args:
        cohort: whose windows.
        lake_version: at which version of the lake's ``windows`` table.
        labels_version: at which version of its ``labels`` table; None (which keeps the keys of runs from before there was one) for none.
        original: digest of the original model.
        data: which windows, who is held out.
        quality: how labels are scored.
        finetune: the recipe, with its seed; where it runs (device, threads) is left out.
        holdout: name of the frozen holdout: who is not trained on.
    """
    parts: Mapping[str, Any] = {
        "cohort": cohort, "lake_version": lake_version, "original": original, **decisive(data, quality, finetune)
    }  # fmt: skip
    if labels_version is not None:
        parts = {**parts, "labels_version": labels_version}
    if holdout:
        parts = {**parts, "holdout": holdout}
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
