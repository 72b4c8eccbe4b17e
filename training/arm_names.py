"""What arms there are; apart from them, since they load torch, which takes seconds, and a wrong name should not."""

from __future__ import annotations

from collections.abc import Iterable

from training.errors import SettingsError

ORIGINAL, FILTERLOSS = "original", "filterloss"
ARMS = (ORIGINAL, "plain", "oversampling", "undersampling", FILTERLOSS)
"""Every arm, in the order they are run."""


def check_arms(arms: Iterable[str]) -> None:
    """Let known arms pass.

    Raises:
        SettingsError: there is no such arm.
    """
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        msg = f"There is no arm {unknown[0]!r}; there are {', '.join(ARMS)}"
        raise SettingsError(msg)
