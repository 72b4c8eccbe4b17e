"""A pair of fleets, each a lake or a folder of recordings, and the original model: what an experiment is about.

The original model is trained on the source once; what was made is kept below ``SENSORLOOP_HOME/experiments`` and found there again.
Whatever of the two is left out, masked or the same on both sides is said before anything is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dags.local.recordings import is_lake, require_data, through_kafka
from dags.settings import Settings
from dags.terminal import progress, say, say_some
from training.errors import DataError, NoSuchCohort

if TYPE_CHECKING:
    from training.dataset import WindowSet
    from training.experiment import Pair
    from training.settings import DataSettings

_WHICH = ("source", "target")


def pair_of(settings: Settings, place: Path, where: tuple[str, str], cohorts: tuple[str, str], name: str) -> Pair:
    """Source and target, each a lake or a folder of recordings, and the original model; below ``place``, what has been made is found again.

    Raises:
        DataError: they share too few scenes or no channel, or most of the target is the source; or there are no recordings.
        CommandRefused: recordings could not be brought into a lake.
    """
    for each in where:
        require_data(each)

    # After what is refused at once: it takes seconds.
    from training.experiment import Pair
    from training.original import OriginalModel, train_original
    from training.runkey import ORIGINAL_RECIPE

    source, target = (
        _windows(settings, place, which, each, cohort)
        for which, each, cohort in zip(_WHICH, where, cohorts, strict=True)
    )
    shared = [scene for scene, count in source.counts().items() if count and target.counts().get(scene)]
    left = _left_out(source, target, shared)
    if len(shared) < 2:
        msg = (
            f"Source and target share {len(shared)} labelled scenes ({', '.join(shared) or 'none'}); at least 2 are needed. "
            f"The source has {', '.join(source.scene_names)}, the target {', '.join(target.scene_names)}."
        )
        raise DataError(" ".join([msg, *left]))
    source, target = _only(source, shared), _only(target, shared)
    cuts = [(windows.rate_hz, windows.signals.shape[2]) for windows in (source, target)]
    if cuts[0] != cuts[1]:
        told = " and ".join(f"{samples} samples at {rate:g} Hz" for rate, samples in cuts)
        msg = f"Source and target are cut differently ({told}): ingest both with the same [windows], each into a new lake."
        raise DataError(msg)
    say_some([*left, *_masked(source, target), *_the_same(source, target)])
    # Those of [data] are the installation's; here each seed draws its own, and who verifies cannot be asked about made-up labels.
    data = replace(settings.data, scenes=tuple(shared), holdout_subjects=(), verified_by=())
    _require_people("source", source, data, min_labelled=data.min_labelled, min_train_subjects=1)
    _require_people("target", target, data, min_labelled=0, min_train_subjects=2)
    parts = json.dumps(
        [ORIGINAL_RECIPE, source.digest(), asdict(settings.original), data.recipe(), asdict(settings.spectrogram)], default=str
    )  # fmt: skip
    folder = place / "originals" / hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
    if (folder / "model.json").exists():
        original = OriginalModel.load(folder)
    else:
        with progress("Training the original model") as show:
            original = train_original(
                source, settings.original, data=data, spectrogram=settings.spectrogram, compute=settings.compute, progress=show,
            )  # fmt: skip
        original.save(folder)
    say(f"{name}: {len(source):,} windows of the source, {len(target):,} of the target; {', '.join(shared)}.")
    say(f"Original model: accuracy {original.accuracy:.3f} at home.")
    there = original.evaluation.confusion.sum(1)
    commonest, share = int(there.argmax()), float(there.max() / there.sum())
    if original.accuracy <= share:
        say(
            f"To call every window {original.evaluation.scene_names[commonest]} would be right at least as often ({share:.3f}): the "
            "original model has learned nothing that holds for people it has not seen, and the table says little. Other channels, more "
            "epochs or better labels may help."
        )
    return Pair(name=name, original=original, source=source, target=target)


def _left_out(source: WindowSet, target: WindowSet, shared: Sequence[str]) -> list[str]:
    """Scenes that only one of the two has, in a sentence for each side."""
    found = []
    for which, windows, other in ((0, source, target), (1, target, source)):
        known = [scene for scene, count in other.counts().items() if count]
        lacking = [scene for scene, count in windows.counts().items() if count and scene not in shared]
        if lacking:
            told = ", ".join(windows.described(scene, known) for scene in lacking)
            found.append(f"Left out of the {_WHICH[which]}, as the {_WHICH[1 - which]} has no such scene: {told}.")
    return found


def _the_same(source: WindowSet, target: WindowSet) -> list[str]:
    """What the two have in common of their windows: the original model must be tried on what it has not learned from.

    Raises:
        DataError: it is more than half of the target.
    """
    known = {hashlib.blake2b(signals.tobytes(), digest_size=16).digest() for signals in source.signals}
    same = sum(hashlib.blake2b(signals.tobytes(), digest_size=16).digest() in known for signals in target.signals)
    msg = f"{same:,} of the target's {len(target):,} windows are windows of the source as well: "
    if 2 * same > len(target):
        msg += (
            "the original model would be tried on what it has learned from. Name other recordings, or another --source-cohort or "
            "--target-cohort."
        )
        raise DataError(msg)
    return [f"{msg}on these the original model is tried on what it has learned from."] if same else []


def _masked(source: WindowSet, target: WindowSet) -> list[str]:
    """Channels that only one of the two has, or none, in sentences.

    Raises:
        DataError: they have no channel in common.
    """
    import numpy as np

    channels = source.channels
    measured = [(~np.isnan(windows.signals)).any(axis=(0, 2)) for windows in (source, target)]
    there = [{channels[at] for at in np.flatnonzero(each)} for each in measured]
    if not there[0] & there[1]:
        told = " and ".join(
            f"the {which} has {_named(channels, has)}" for which, has in zip(_WHICH, there, strict=True)
        )
        msg = (
            f"Source and target have no channel in common: {told}. What is learned from one is of no use on the other; see [data] "
            "channels and [windows] sensors."
        )
        raise DataError(msg)
    found = [
        f"The {which} has no {_named(channels, lacking)}: masked there."
        for which, has, others in ((_WHICH[0], there[0], there[1]), (_WHICH[1], there[1], there[0]))
        if (lacking := others - has)
    ]
    if neither := set(channels) - there[0] - there[1]:
        found.append(
            f"Neither has {_named(channels, neither)}: no phone measured it, or [windows] sensors leaves it out. The models are without."
        )
    return found


def _named(channels: Sequence[str], some: Collection[str]) -> str:
    return ", ".join(channel for channel in channels if channel in some)


def _require_people(
    which: str, windows: WindowSet, data: DataSettings, *, min_labelled: int, min_train_subjects: int
) -> None:
    """Said of either before the original model takes minutes."""
    from training.folds import split_by_subject

    try:
        split_by_subject(
            windows, share=data.holdout_share, seed=data.seed, min_labelled=min_labelled, min_train_subjects=min_train_subjects,
        )  # fmt: skip
    except DataError as error:
        msg = f"The {which}: {error}"
        raise type(error)(msg) from error


def _only(windows: WindowSet, scenes: Sequence[str]) -> WindowSet:
    numbers = [windows.scene_names.index(scene) for scene in scenes]
    keep = [scene in numbers for scene in windows.scenes.tolist()]
    import numpy as np

    return windows.select(np.array(keep)).with_scenes(scenes)


def _windows(settings: Settings, place: Path, which: str, where: str, cohort: str) -> WindowSet:
    from streaming.lake import labels_version, table_version
    from training.lake import described_windows, from_lake, usable

    lake = where if is_lake(where) else through_kafka(settings, place, Path(where))
    data = settings.data
    version, said = table_version(lake), labels_version(lake)
    try:
        found = from_lake(
            lake, version, labels_version=said, cohort=cohort, channels=data.channels, scenes=data.scenes or None,
            min_coverage=data.min_coverage, labelled_only=True,
        )  # fmt: skip
    except NoSuchCohort as error:
        msg = f"The {which}: {error} Here that is --{which}-cohort."
        raise NoSuchCohort(msg) from error
    except DataError as error:
        msg = f"The {which}: {error}"
        raise type(error)(msg) from error
    every = described_windows(lake, version, said, cohort=cohort, channels=data.channels)
    anyhow = every.with_columns(every["coverage"].fill_null(-1.0))
    labelled = usable(anyhow, scenes=data.scenes or None, min_coverage=-1.0, labelled_only=True)["coverage"]
    without = int((labelled < 0).sum())
    for count, why in (
        (len(labelled) - len(found) - without, "as too sparse ([data] min_coverage)"),
        (without, "as no sensor of [data] channels is there"),
    ):
        if count:
            say(f"Left out of the {which}'s {len(labelled):,} labelled windows, {why}: {count:,}.")
    return found
