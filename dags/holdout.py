"""The seam between the split that training needs and the holdouts that the registry keeps frozen."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dags import steps
from dags.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from registry.gate import Question
    from registry.holdouts import Frozen, Holdouts
    from training.dataset import WindowSet
    from training.errors import RunError
    from training.folds import Split

_DRAWS = 20
"""Tries to find others where too few are left to leave out all who were held out before."""


def holdouts(settings: Settings) -> Holdouts:
    """The frozen holdouts, beside the ledger."""
    from registry.environment import user
    from registry.holdouts import Holdouts

    return Holdouts(settings.ledger_url, clock=lambda: datetime.now(UTC), who=user())


def frozen_split(
    settings: Settings, windows: WindowSet, *, cohort: str, name: str | None, lake_version: int | None
) -> tuple[Split, Frozen]:
    """Whom to train on and whom to ask: those that were held out when the cohort's holdout was frozen.

    Args:
        settings: of this installation.
        windows: the cohort's labelled windows, with the scenes and channels of the original model.
        cohort: whose.
        name: of a holdout, that of a run that has begun; None for the present one, which is frozen if there is none.
        lake_version: of the windows; noted with a holdout that is frozen.

    Raises:
        RunError: the run's holdout has been renewed since, or nobody of it has a labelled window, or the settings name others.
        TrainingError: the windows allow no split; the message says what is missing.
        LedgerError: the database does not answer.
    """
    from registry.holdouts import Frozen
    from training.errors import RunError

    kept = holdouts(settings)
    current = kept.current(cohort)
    if name is not None and (current is None or current.name != name):
        msg = f"Holdout {name} of cohort {cohort} has been renewed since the run was scored: rescore, and use the new run key."
        raise RunError(msg)
    if current is None:
        split = _next_split(settings, windows, cohort, kept.all(cohort))
        draft = Frozen(
            cohort=cohort, subjects=split.holdout_subjects, labels=_labels(windows.select(split.holdout)),
            lake_version=str(lake_version),
        )  # fmt: skip
        current = kept.freeze(draft)
        if current.name == draft.name:
            return split, current
    _check(steps.held_out(settings, windows, cohort), current)
    known = set(windows.subjects.tolist())
    present = [subject for subject in current.subjects if subject in known]
    if not present:
        msg = (
            f"None of the people of holdout {current.name} ({', '.join(current.subjects)}) has a labelled window of cohort {cohort} "
            f"in this version of the lake. 'sensorloop registry renew-holdout --cohort {cohort} --redraw' holds out others."
        )
        raise RunError(msg)
    split = _split(settings, windows, present)
    # New windows of the people held out are neither asked nor trained on.
    asked = split.holdout & _among(windows, current)
    if not asked.any():
        msg = (
            f"None of the windows of holdout {current.name} is labelled in this version of the lake, though some of its people's are. "
            f"'sensorloop registry renew-holdout --cohort {cohort}' asks their windows of now."
        )
        raise RunError(msg)
    return dataclasses.replace(split, holdout=asked), current


def question(settings: Settings, frozen: Frozen, windows: WindowSet, *, candidate: str) -> Question:
    """Count that a candidate is judged on a holdout, and say what the gate has to know of it.

    Args:
        settings: of this installation.
        frozen: the holdout.
        windows: the windows of it that there are.
        candidate: what names the candidate; the same is counted once.
    """
    from registry.gate import Question

    relabelled, missing = frozen.changes(_labels(windows))
    number = holdouts(settings).ask(frozen, candidate)
    return Question(
        holdout=frozen.name, number=number, windows=len(frozen.labels), relabelled=relabelled, missing=missing
    )


def retire(settings: Settings, cohort: str, *, why: str, redraw: bool) -> Frozen:
    """Let the next retraining freeze another holdout, see :meth:`registry.holdouts.Holdouts.retire`.

    Raises:
        RunError: others are to be held out, and the settings name the same.
        LedgerError: there is no holdout yet, or the database does not answer.
    """
    from training.cohort import Cohort

    kept = holdouts(settings)
    latest, named = kept.latest(cohort), set(settings.data.holdout_subjects)
    # Of those who are named, a part of a fleet holds out who is in it.
    if redraw and latest and (named >= set(latest.subjects) if Cohort.parse(cohort).column else _same(named, latest)):
        raise _the_same_again(latest)
    return kept.retire(cohort, why=why, redraw=redraw)


def _next_split(settings: Settings, windows: WindowSet, cohort: str, before: Sequence[Frozen]) -> Split:
    """Who is held out when a holdout is frozen, after those of before."""
    from training.errors import DataError, RunError

    named, last = steps.held_out(settings, windows, cohort), before[-1] if before else None
    if last is None or not last.redraw:
        return _split(settings, windows, named or (last.subjects if last else ()))
    if named and _same(named, last):
        raise _the_same_again(last)
    if named:
        return _split(settings, windows, named)
    everybody = {subject for each in before for subject in each.subjects}
    with contextlib.suppress(DataError):  # too few others, or a scene that only those have
        return _split(settings, windows, (), spared=tuple(everybody), draw=last.number)
    drawn, lacking = [], None
    for spared, draw in itertools.product((last.subjects, ()), range(last.number, last.number + _DRAWS)):
        try:
            drawn.append(_split(settings, windows, (), spared=spared, draw=draw))
        except DataError as error:
            lacking = error
    if not drawn and lacking is not None:
        raise lacking  # at last nobody was spared: these windows allow no split at all
    others = [split for split in drawn if not _same(split.holdout_subjects, last)]
    if not others:
        msg = (
            f"Nobody else of cohort {cohort} can be held out than {', '.join(last.subjects)}: too few people have labels of every scene. "
            "Label more people's windows, or name whom to hold out in [data] holdout_subjects; "
            f"'sensorloop registry renew-holdout --cohort {cohort}' keeps the same people after all."
        )
        raise RunError(msg)

    def known(split: Split) -> tuple[bool, int]:
        """Whether these have been held out before, and how many of them just now."""
        return any(_same(split.holdout_subjects, each) for each in before), len(
            set(split.holdout_subjects) & set(last.subjects)
        )

    return min(others, key=known)


def _same(subjects: Iterable[str], frozen: Frozen) -> bool:
    return set(subjects) == set(frozen.subjects)


def _the_same_again(frozen: Frozen) -> RunError:
    from training.errors import RunError

    return RunError(
        f"Others than {', '.join(frozen.subjects)} are to be held out of cohort {frozen.cohort}, and [data] holdout_subjects names "
        "just these: name others there, or take it out, and others are drawn."
    )


def _split(
    settings: Settings, windows: WindowSet, subjects: Sequence[str], *, spared: tuple[str, ...] = (), draw: int = 0
) -> Split:
    from training.folds import split_by_subject

    data = settings.data
    return split_by_subject(
        windows, share=data.holdout_share, subjects=subjects, spared=spared, seed=data.seed + draw, min_labelled=data.min_labelled,
        scenes=data.scenes or windows.scene_names, min_train_subjects=2,
    )  # fmt: skip


def _check(named: Sequence[str], frozen: Frozen) -> None:
    from training.errors import RunError

    others = sorted(set(named) - set(frozen.subjects))
    if others:
        msg = (
            f"[data] holdout_subjects names {', '.join(others)}, but cohort {frozen.cohort}'s holdout {frozen.name} was frozen with "
            f"{', '.join(frozen.subjects)}. Take them out, or 'sensorloop registry renew-holdout --cohort {frozen.cohort} --redraw'."
        )
        raise RunError(msg)


def _labels(windows: WindowSet) -> dict[str, str]:
    scenes = [windows.scene_names[scene] for scene in windows.scenes]
    return dict(zip(windows.window_ids.tolist(), scenes, strict=True))


def _among(windows: WindowSet, frozen: Frozen) -> NDArray[np.bool_]:
    import numpy as np

    return np.isin(windows.window_ids, list(frozen.labels))
