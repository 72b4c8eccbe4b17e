"""``python -m training``: the core by itself, on a machine that has torch, torchvision, numpy and scikit-learn and nothing else of ours.

::

    python -m training original SOURCE.npz --into ORIGINAL
    python -m training finetune TARGET.npz --original ORIGINAL --into FOLDER --arm filterloss-auto
    torchrun --nproc-per-node 8 -m training finetune …

The files are those of :meth:`training.dataset.WindowSet.save`; :meth:`training.dataset.WindowSet.of` makes one of arrays. Nothing is held
out of the target and nothing registered: that is what ``sensorloop finetune`` is for. The last line of stdout is the result as JSON.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.arm import EVERY, FILTERLOSS, ORIGINAL
from training.errors import SettingsError, TooFewLabels, TrainingError
from training.settings import ComputeSettings, DataSettings, FineTuneSettings, OriginalSettings, QualitySettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_REFUSED = 3
_USUAL = DataSettings()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """What of [data] is left to say of an .npz: its windows have been chosen."""

    holdout_share: float = _USUAL.holdout_share
    min_labelled: int = _USUAL.min_labelled


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit code 3 if it cannot be done as things are."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description="The training core, from .npz files of windows."
    )
    commands = parser.add_subparsers(required=True)
    original = commands.add_parser("original", help="train the original model on a source")
    original.set_defaults(run=_original)
    finetune = commands.add_parser("finetune", help="fine-tune it on a target's labelled windows")
    finetune.set_defaults(run=_finetune)
    finetune.add_argument("--original", type=Path, required=True, help="folder of the original model")
    starting = [
        name for name, arm in EVERY.items() if arm.start == "original" and name != ORIGINAL and arm.weights != "oracle"
    ]
    finetune.add_argument(
        "--arm", choices=starting, default=f"{FILTERLOSS}-auto", help="how; FilterLoss's auto if not said"
    )
    for command in (original, finetune):
        command.add_argument("windows", type=Path, help="an .npz of windows")
        command.add_argument("--into", type=Path, required=True, help="folder for the model")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="a key of [original], [data] or [compute]"
            if command is original
            else "a key of [finetune], [quality] or [compute]",
        )
    options = parser.parse_args(arguments)
    try:
        result = options.run(options)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_REFUSED)
    if result is not None:
        print(json.dumps(result))


def _original(options: argparse.Namespace) -> dict[str, Any]:
    settings, compute, data = _changed(options.set, OriginalSettings(), ComputeSettings(), _Data())
    from training.dataset import WindowSet  # noqa: PLC0415  (after what takes no torch to see)
    from training.original import train_original  # noqa: PLC0415

    windows = WindowSet.load(options.windows)
    chosen = DataSettings(channels=windows.channels, **dataclasses.asdict(data))
    model = train_original(windows, settings, data=chosen, compute=compute, progress=_told)
    model.save(options.into)
    return {"accuracy": model.accuracy, "macro_f1": model.macro_f1, "digest": model.digest, "folder": str(options.into)}


def _finetune(options: argparse.Namespace) -> dict[str, Any] | None:
    settings, compute, looks = _changed(options.set, FineTuneSettings(), ComputeSettings(), QualitySettings())
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from training.arms import tune  # noqa: PLC0415
    from training.dataset import WindowSet  # noqa: PLC0415
    from training.devices import device  # noqa: PLC0415
    from training.embeddings import features_of  # noqa: PLC0415
    from training.heads import Head  # noqa: PLC0415
    from training.network import infer  # noqa: PLC0415
    from training.original import OriginalModel  # noqa: PLC0415
    from training.policies import Labelled  # noqa: PLC0415
    from training.quality import score_quality  # noqa: PLC0415
    from training.ranks import together  # noqa: PLC0415
    from training.tracking import NullRun  # noqa: PLC0415

    arm, where = EVERY[options.arm], device(settings.device)
    if arm.head_only:
        settings = dataclasses.replace(settings, trainable="head")
    with together(where) as ranks:
        net = OriginalModel.load(options.original).net
        windows = net.aligned(WindowSet.load(options.windows)).labelled()
        if not len(windows):
            msg = f"{options.windows} has no labelled window: there is nothing to learn from."
            raise TooFewLabels(msg)
        features = features_of(net, windows, where)
        quality = score_quality(
            windows,
            features,
            Head.of(net),
            train=np.ones(len(windows), bool),
            settings=looks,
            seed=settings.seed,
        )
        data = Labelled.of(windows, features, quality, Head.of(net))
        cached = infer(net.split(settings.trainable)[0].eval(), torch.from_numpy(windows.signals), where=where)
        tuned, weighed = tune(
            net, arm, cached, data, settings=settings, quality=looks, run=NullRun(), compute=compute,
            checkpoint=options.into / "checkpoint.pt", progress=_told,
        )  # fmt: skip
        if not ranks.first:
            return None
        tuned.net.save(options.into, {"kind": options.arm})
        (options.into / "checkpoint.pt").unlink(missing_ok=True)
    return {
        "windows": len(windows), "epochs": tuned.epochs, "share": tuned.share, "validation": tuned.validation,
        "validation_original": tuned.validation_original, "validation_below": tuned.validation_below, "choices": weighed.details,
        "folder": str(options.into),
    }  # fmt: skip


def _changed(assignments: Sequence[str], *sections: DataclassInstance) -> list[Any]:
    """The sections with ``KEY=VALUE`` set, each in the first that has the key.

    Raises:
        SettingsError: none has it, or its value is not allowed.
    """
    changes: list[dict[str, Any]] = [{} for _ in sections]
    keys = [[field.name for field in dataclasses.fields(section)] for section in sections]
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        owner = next((at for at, known in enumerate(keys) if key in known), None)
        if owner is None:
            known = dict.fromkeys(name for some in keys for name in some)
            msg = f"--set {assignment}: there is no key {key!r}; there are {', '.join(known)}"
            raise SettingsError(msg)
        try:
            changes[owner][key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changes[owner][key] = text
    return [dataclasses.replace(section, **each) for section, each in zip(sections, changes, strict=True)]


def _told(done: int, total: int, text: str) -> None:
    print(f"{done}/{total} {text}", file=sys.stderr)


if __name__ == "__main__":
    # Leave by an exception, so that a training saves how far it is.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    main()
