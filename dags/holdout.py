"""The seam between the split that training needs and the holdouts that the registry keeps frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    from training.folds import Split


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
        before = kept.latest(cohort)
        subjects = steps.held_out(settings, windows, cohort) or (
            before.subjects if before and not before.redraw else ()
        )
        split = _split(settings, windows, subjects)
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


def _split(settings: Settings, windows: WindowSet, subjects: tuple[str, ...] | list[str]) -> Split:
    from training.folds import split_by_subject

    data = settings.data
    return split_by_subject(
        windows, share=data.holdout_share, subjects=subjects, seed=data.seed, min_labelled=data.min_labelled,
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
