"""What an arm is: where it starts, what it does about rare and about wrong labels, and how far it may go.

Four families. *As people run it*: the usual remedies, fine-tuned without a look back. *Stopped*: the same, with the stopping rule
that all others have: people left out say whether to begin at all, and whether to train below the head. *Same recipe*: the same
remedies with all that FilterLoss has except its weights: the pull to the original, people left out who choose how far to go, the
correction for imbalance. *FilterLoss*: its policies. The first tells what one gains, the second how much of that is the stopping rule,
the third what the weights give.

Nothing here loads torch: a wrong name should not take its seconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from training.errors import SettingsError
from training.losses import Loss

Weights = Literal["equal", "balanced", "pruned", "oracle", "tiers", "per_sample", "learned", "auto"]
"""What a window's loss counts: the same for all; by its scene's rarity; nothing where confident learning sees an error; nothing where
the label is known to be wrong; and FilterLoss's policies, see :mod:`training.policies`."""
POLICIES: tuple[Weights, ...] = ("tiers", "per_sample", "learned", "auto")
Start = Literal["original", "scratch", "pooled"]
"""The original model; nothing; the original model, with the source's windows beside the target's."""

Choice = Literal["nothing", "whether", "how_far"]
"""What people left out choose. Nothing: the whole way is gone. Whether to go it, by steps: the original stays, its head alone goes the
whole way, or what is below the head does, too. How far: the same, and how far the head goes, and how strongly it is pulled back."""

ORIGINAL, FILTERLOSS, ORACLE, PRUNED = "original", "filterloss", "oracle", "pruned"
FREE = "free-"
"""Begins the name of an arm as people run it."""
STOPPED = "stopped-"
"""Begins that of the same arm with the stopping rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to fine-tune."""

    name: str
    weights: Weights = "equal"
    sampler: Literal["", "oversampling", "undersampling"] = ""
    """How an epoch is drawn; empty: every window once."""
    loss: Loss = field(default_factory=Loss)
    adjust: bool = False
    """Whether logits are adjusted by how common the scenes are."""
    choice: Choice = "how_far"
    """What people left out choose."""
    head_only: bool = False
    """Whether nothing below the head is trained."""
    start: Start = "original"

    @property
    def slow(self) -> bool:
        """Whether it takes minutes, not seconds: it trains from scratch, or on the source's windows, too."""
        return self.start != "original"

    def recipe(self) -> dict[str, Any]:
        """What it does, for the key of a cell; in the words of when there were two choices, so that those cells are found again."""
        fields = {key: value for key, value in asdict(self).items() if key != "choice"}
        rule = {"choice": self.choice} if self.choice == "whether" else {}
        return {**fields, "near": self.choice != "nothing", **rule}

    @property
    def asks(self) -> bool:
        """Whether people left out decide anything."""
        return self.choice != "nothing" and self.name != ORIGINAL

    @property
    def filters(self) -> bool:
        """Whether it is one of FilterLoss's."""
        return self.weights in POLICIES

    @property
    def looks_again(self) -> bool:
        """Whether it weighs again once networks have looked at the labels: not tiers, which are of scores, as published."""
        return self.filters and self.weights != "tiers"


_REMEDIES = (
    Arm(name="plain"),
    Arm(name="oversampling", sampler="oversampling"),
    Arm(name="undersampling", sampler="undersampling"),
    Arm(name="class-balanced", weights="balanced"),
    Arm(name="focal", loss=Loss(kind="focal")),
    Arm(name="logit-adjusted", adjust=True),
    Arm(name="label-smoothing", loss=Loss(smoothing=0.1)),
    Arm(name="generalised-cross-entropy", loss=Loss(kind="generalised")),
    Arm(name=PRUNED, weights="pruned"),
)
_PROBE = Arm(name="linear-probe", head_only=True)
AS_RUN = tuple(
    replace(arm, name=FREE + arm.name, choice="nothing")
    for arm in (*_REMEDIES, _PROBE, Arm(name="scratch", start="scratch"), Arm(name="pooled", start="pooled"))
)
"""As people run it."""
WITH_THE_RULE = tuple(replace(arm, name=STOPPED + arm.name, choice="whether") for arm in (*_REMEDIES, _PROBE))
"""As people run it, but for the stopping rule."""
SAME_RECIPE = tuple(replace(arm, adjust=True) for arm in _REMEDIES if arm.name != "plain")
"""With all but the weights; plain with the correction is ``logit-adjusted``."""
FILTERS = tuple(Arm(name=f"{FILTERLOSS}-{policy}", weights=policy, adjust=True) for policy in POLICIES)
"""FilterLoss, a policy each."""
LIMIT = Arm(name=ORACLE, weights="oracle", adjust=True)
"""What FilterLoss would be if it knew which labels are wrong."""
_USUAL = ("plain", "oversampling", "undersampling", "class-balanced", "focal", "logit-adjusted")
CONVENTIONAL, CONVENTIONAL_STOPPED = (tuple(begins + name for name in _USUAL) for begins in (FREE, STOPPED))
"""Names of the arms that most people would use, and of the same with the stopping rule."""
EVERY = {arm.name: arm for arm in (Arm(name=ORIGINAL), *AS_RUN, *WITH_THE_RULE, *SAME_RECIPE, *FILTERS, LIMIT)}
"""Every arm of an experiment, by its name."""
SOONEST = (
    ORIGINAL, f"{FILTERLOSS}-auto", *CONVENTIONAL, ORACLE, "logit-adjusted", PRUNED, *CONVENTIONAL_STOPPED,
    *(arm.name for arm in (*SAME_RECIPE, *FILTERS) if arm.name not in {"logit-adjusted", PRUNED, f"{FILTERLOSS}-auto"}),
)  # fmt: skip
"""What answers an experiment's question, in the order in which it is wanted where time may be up before the rest."""
RETRAINING = {
    arm.name: arm
    for arm in (
        EVERY[ORIGINAL], Arm(name="plain"), Arm(name="oversampling", sampler="oversampling"),
        Arm(name="undersampling", sampler="undersampling"), Arm(name=FILTERLOSS, weights="auto", adjust=True),
    )
}  # fmt: skip
"""Every arm of a retraining, in the order they are run."""
ARMS = tuple(RETRAINING)
"""Their names."""


def check_arms(arms: Iterable[str]) -> None:
    """Let known arms of a retraining pass.

    Raises:
        SettingsError: there is no such arm.
    """
    for arm in arms:
        if arm not in ARMS:
            raise SettingsError(none_such("arm", arm, ARMS))


def none_such(what: str, name: str, known: Collection[str]) -> str:
    """A message to somebody who has named what is not there: what is, and what may have been meant."""
    # Somebody who writes "plan" may mean free-plain, the first of those that end so.
    called = {each.split("-", 1)[-1]: each for each in reversed(list(known))} | {each: each for each in known}
    near = difflib.get_close_matches(name, called, n=1, cutoff=0.6)
    hint = f". Did you mean {called[near[0]]!r}? There" if near else "; there"
    return f"There is no {what} {name!r}{hint} are {', '.join(known)}."
