"""The settings of this package; ``sensorloop.toml`` has a section for each class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from training import rules

Architecture = Literal["resnet34", "resnet18"]
"""A ResNet of torchvision."""
Device = Literal["auto", "cpu", "cuda"]
"""Where to compute."""
Correction = Literal["logit-adjustment", "margins"]
"""Of imbalance: by how common each scene is (Menon et al., 2021), or by a margin that rare scenes have more of (LDAM: Cao et al., 2019)."""
Precision = Literal["auto", "float32", "bfloat16"]
"""Of what a network computes while it is trained; its weights are float32."""
Trainable = Literal["head", "block", "layer4", "all"]
"""What a fine-tuning changes: the last linear layer, also the last residual block, the last stage, or all after the spectrogram."""
Compiled = Literal["auto", "on", "off"]
"""Whether torch.compile turns the trained part into kernels of its own."""

_ARCHITECTURE, _DEVICE = rules.one_of(get_args(Architecture)), rules.one_of(get_args(Device))
_TRAINABLE = rules.one_of(get_args(Trainable))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrogramSettings:
    """How signals become images."""

    segment: timedelta = timedelta(seconds=1.28)
    """Length of a Fourier segment: 0.78 Hz apart, so that a step's harmonics are told from each other."""
    bands: int = 32
    """Rows of an image."""
    frames: int = 32
    """Columns of an image: segments start so far apart that this many fill the window."""
    floor: float = 1e-3
    """Added to the power before the logarithm, as a share of the channel's mean power in the source data: below it is phone noise."""

    def __post_init__(self) -> None:
        rules.check(
            "spectrogram", self, segment=rules.DURATION, bands=rules.at_least(1), frames=rules.at_least(2), floor=rules.FLOOR,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """Which windows, and who is held out."""

    channels: tuple[str, ...] = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z", "mag_x", "mag_y", "mag_z")
    """Channels of the original model. One that a phone lacks is masked, so a model of nine works on a phone of six."""
    scenes: tuple[str, ...] = ()
    """Scenes to train and test on; windows of others are left out. Empty: all that are labelled."""
    min_coverage: float = 0.5
    """Share of a window's grid, 0 to 1, that must be backed by samples. Sparser ones are mostly gap."""
    holdout_share: float = 0.3
    """Share of the people, 0 to 1, that a result is measured on."""
    holdout_subjects: tuple[str, ...] = ()
    """The target's people to measure on, instead of a share: those whose labels are known to be right, if there are such. An experiment
    draws its own."""
    verified_by: tuple[str, ...] = ()
    """Who labels rightly (``said_by`` of a label): what they say is believed. Where they have labelled five windows of every scene, of each
    scene two people's, they alone judge how to weigh the others."""
    min_labelled: int = 40
    """Fewer labelled windows than this are refused: nothing can be learned from them that the next few would not overturn."""
    seed: int = 0
    """Which people are drawn."""

    def __post_init__(self) -> None:
        rules.check(
            "data", self, channels=rules.SOME_NAMES, scenes=rules.NAMES, min_coverage=rules.SHARE, holdout_share=rules.PART,
            holdout_subjects=rules.NAMES, verified_by=rules.NAMES, min_labelled=rules.at_least(0), seed=rules.SEED,
        )  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """What of it decides what comes out, for keys; where nobody is named, those from before anybody could be."""
        verified = {"verified_by": sorted(self.verified_by)} if self.verified_by else {}
        return {**{key: value for key, value in asdict(self).items() if key != "verified_by"}, **verified}


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalSettings:
    """Training of the original model from nothing."""

    architecture: Architecture = "resnet34"
    """A ResNet of torchvision: resnet34, or resnet18 where that is too slow."""
    epochs: int = 6
    """Passes over the data; with one cycle of the learning rate, as many as are needed and no more."""
    batch: int = 64
    """Windows a step."""
    learning_rate: float = 2e-3
    """Highest learning rate of the cycle."""
    weight_decay: float = 0.05
    """AdamW's, per step relative to the learning rate."""
    rotate: bool = True
    """Turn each window's phone at random, so that the model does not learn how the source's people carried theirs."""
    gain: float = 0.1
    """Standard deviation of the logarithm of a random factor on each sensor: phones differ by some percent."""
    sensor_dropout: float = 0.1
    """Probability that a sensor of a window is missing, so that the model also works on phones without it."""
    threads: int = 0
    """Threads to compute with; 0 for one a core. Two programs that both use all cores slow each other down tenfold."""
    device: Device = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    seed: int = 0
    """Of weights, order and augmentation."""

    def __post_init__(self) -> None:
        rules.check(
            "original", self, architecture=_ARCHITECTURE, epochs=rules.at_least(1),
            batch=rules.at_least(2, "because batch norm cannot learn from one window"), learning_rate=rules.POSITIVE,
            weight_decay=rules.NOT_NEGATIVE, gain=rules.NOT_NEGATIVE, sensor_dropout=rules.SHARE, threads=rules.at_least(0),
            device=_DEVICE, seed=rules.SEED,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class QualitySettings:
    """How far a label can be believed."""

    folds: int = 4
    """Folds of people, and of sessions: each window is judged by heads and trees that were fitted without them."""
    pulls: tuple[float, ...] = (1e-3, 1e-5)
    """How strongly the heads that judge are pulled to the original's: strongly, as suits 200 windows, and weakly, as suits thousands.
    The labels decide which of them to trust."""
    neighbours: int = 15
    """Windows of other people, nearest in the original model's features, whose labels vote."""
    novelty: float = 0.1
    """How much of its evidence a further window of a session with the same label adds, 0 to 1: they overlap, and resemble each other.
    All of them together are worth no more than two looks."""
    rank_share: float = 0.1
    """Share of a score, 0 to 1, that is the rank among windows of the same scene and person: a threshold over all would throw
    away rare scenes and unusual phones, a rank alone would distrust as many where all is right."""
    shrink: int = 20
    """Windows of a (scene, person) at which its own ranking counts as much as the scene's."""
    rounds: int = 2
    """How often the judges are fitted: from the second time on each window counts by what was believed before, so that wrong labels
    teach them less, and how trees take scenes for each other in the mean is undone."""
    thresholds: tuple[float, ...] = (0.3, 0.8)
    """Scores between tiers, ascending: below the first is the least trusted tier."""
    floor: float = 0.02
    """Least weight: nothing is ever erased."""

    def __post_init__(self) -> None:
        rules.check(
            "quality", self, folds=rules.at_least(2, "so that somebody is left to judge"), pulls=rules.PULLS,
            neighbours=rules.at_least(1), novelty=rules.SHARE, rank_share=rules.SHARE, shrink=rules.at_least(0),
            rounds=rules.at_least(1), thresholds=rules.ASCENDING_PARTS, floor=rules.FLOOR,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneSettings:
    """Fine-tuning, the same for every arm."""

    trainable: Trainable = "all"
    """What may be trained: head, block (the last residual block, too), layer4 (the last stage), all. On a CPU, all takes some minutes for
    some hundreds of labels, head and block seconds: what is below them is computed once. All is worth points (docs/transfer.md)."""
    epochs: int = 20
    """Passes over the data that train below the head, if that is worth it to people of the training part who were left out."""
    max_steps: int = 300
    """Most steps of a training; with more than a thousand windows there are fewer passes, but one at least."""
    worth: float = 0.0
    """What training below the head must gain in balanced accuracy, 0 to 1, among people left out, over the head that
    was chosen, give or take two standard errors; over the original, where no head is better, more than chance would have it."""
    batch: int = 64
    """Windows a step, of all processes. Batch norm of a whole network learns from those that a process computes at a time: eight at least
    are best, and of one it learns nothing."""
    head_pulls: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5)
    """How strongly the head may be pulled to the original's; people who were left out choose."""
    learning_rate: float = 5e-4
    """AdamW's, at the top of its cycle."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """How far to go from the original's weights (0, always allowed) to the trained ones (1); people who were left out choose."""
    rotate: bool = True
    """With trainable all: turn each window's phone at random at each step, as when the original was trained."""
    gain: float = 0.1
    """With trainable all: standard deviation of the logarithm of a random factor on each sensor."""
    sensor_dropout: float = 0.1
    """With trainable all: probability that a sensor of a window is missing at a step; never all that the phone has."""
    pull: float = 1e-4
    """L2-SP: half of this times the squared distance from the weights at the start is added to the loss."""
    correction: Correction = "logit-adjustment"
    """For imbalance, in FilterLoss and in the arms of an experiment that share its recipe: logit-adjustment, or margins (LDAM's), which
    came to three to six points less where it was measured (docs/choices.md). Heads that judge labels and weights always adjust logits."""
    margin: float = 3.0
    """With margins: that of the rarest scene, in logits; the others' are smaller, as the fourth root of how many windows they have."""
    validation_folds: int = 4
    """The training part's people in so many folds, who choose how far to go: each in turn is left out of a training. So that
    these cost two fine-tunings at most, they have two thirds of the epochs with four folds, all with three, half with five."""
    device: Device = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    threads: int = 0
    """Threads to compute with; 0 for one a core."""
    seed: int = 0
    """Of folds, order, and changes of signals."""

    def __post_init__(self) -> None:
        rules.check(
            "finetune", self, trainable=_TRAINABLE, epochs=rules.at_least(1), max_steps=rules.at_least(1), worth=rules.DIFFERENCE,
            batch=rules.at_least(1), head_pulls=rules.PULLS, shares=rules.SOME_SHARES,
            learning_rate=rules.POSITIVE, gain=rules.NOT_NEGATIVE, sensor_dropout=rules.SHARE, pull=rules.NOT_NEGATIVE,
            correction=rules.one_of(get_args(Correction)),
            margin=rules.NOT_NEGATIVE, validation_folds=rules.at_least(2, "so that somebody is left to judge"), device=_DEVICE,
            threads=rules.at_least(0), seed=rules.SEED,
        )  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """What of it decides what comes out, for keys: where it runs makes no other training."""
        return {key: value for key, value in asdict(self).items() if key not in {"device", "threads"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeSettings:
    """How the machine is used, which is no part of a run key.

    What is computed is the same but for rounding, and for batch norm of a whole network, which sees as many windows as are computed
    at a time.
    """

    precision: Precision = "auto"
    """float32, bfloat16, or auto: bfloat16 on a GPU that has it, and where a CPU that has it (AVX-512 BF16, AMX) fine-tunes the whole
    network, which is faster so; a last block alone, or an original model, is not trained so there. Weights, sums and the loss stay
    float32, and on a CPU all of it where images have 16 columns or fewer, whatever is set: there bfloat16's gradient is made up."""
    compiled: Compiled = "auto"
    """on, off, or auto: on a GPU, for at least 10,000 steps. Compiling takes a minute, which a few hundred steps never give back."""
    deterministic: bool = False
    """The same bits each time on a GPU, too, where that costs speed. On a CPU they always are, with the same number of threads."""
    resident: float = 0.5
    """Share of a GPU's free memory, 0 to 1, that the data may take; of more, each step's go over from the computer's memory."""
    checkpoint_every: timedelta = timedelta(seconds=60)
    """Time between checkpoints, at ends of epochs: what is lost, with the epoch under way, when a training is killed; told to stop
    (SIGTERM), it saves first. One is a write of three times the trained part's size."""

    def __post_init__(self) -> None:
        rules.check(
            "compute", self, precision=rules.one_of(get_args(Precision)), compiled=rules.one_of(get_args(Compiled)),
            resident=rules.SHARE, checkpoint_every=rules.Rule(holds=lambda value: value >= timedelta(0), allowed="0 s or more"),
        )  # fmt: skip
