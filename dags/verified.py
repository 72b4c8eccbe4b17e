"""What came of ``[data] verified_by``: whose labels there are, and whether they alone judge how to weigh the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dags.settings import Settings

if TYPE_CHECKING:
    from training.arms import Bench


def verified(settings: Settings, bench: Bench) -> dict[str, Any]:
    """What a rescoring says of it; nothing where nobody is named.

    Returns:
        ``verified`` and ``verified_held_out``: windows that are learned from, and that are not; ``verified_lacks``: scene → what is missing
        there for them to judge alone, in words; ``verified_unknown``: name → the nearest that has labelled anything, or "".
    """
    import polars as pl

    from streaming.lake import scan_labels
    from streaming.tables import NO_LABELS
    from training.arms import labelled
    from training.policies import clean_fold_lacks

    known, train = bench.windows.verified, bench.train
    if known is None:
        return {}
    lacks = {
        bench.windows.scene_names[scene]: " and ".join(
            f"{count} more {what}" for count, what in ((windows, "verified windows"), (people, "people with some")) if count
        )
        for scene, (windows, people) in clean_fold_lacks(labelled(bench)).items()
    }  # fmt: skip
    version = NO_LABELS if bench.windows.labels_version is None else bench.windows.labels_version
    said = scan_labels(settings.lake, version).select(pl.col("said_by").unique()).collect()
    names = sorted(said["said_by"].to_list())
    unknown = {name: _nearest(name, names) for name in settings.data.verified_by if name not in names}
    return {
        "verified": int((known & train).sum()), "verified_held_out": int((known & ~train).sum()),
        "verified_lacks": lacks, "verified_unknown": unknown,
    }  # fmt: skip


def verified_lines(done: Mapping[str, Any]) -> list[str]:
    """The same for people, a sentence each."""
    if "verified" not in done:
        return []
    others, lacks = done["verified_held_out"], done["verified_lacks"]
    judge = (
        f"they do not judge alone how to weigh the rest: that takes {'; '.join(f'{text} of {scene}' for scene, text in lacks.items())}"
        if lacks
        else "they alone judge how to weigh the rest"
    )
    lines = [f"{done['verified']} windows to learn from are verified ({others} more of people held out); {judge}."]
    for name, near in done["verified_unknown"].items():
        lines.append(
            f"Nobody called {name!r} has labelled anything{f'; {near!r} has' if near else ''}: see [data] verified_by."
        )
    return lines


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return near[0] if near else ""
