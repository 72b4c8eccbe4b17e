"""Everything that can go wrong between a finished training run and a serving champion.

::

    RegistryError
    ├── RegistrySettingsError   settings that contradict each other or are missing
    ├── ServerError             the local MLflow server cannot be started
    │   └── ServerPortTaken
    ├── TrackingError           MLflow answered, and refused what was asked
    │   └── MlflowUnavailable   MLflow did not answer
    ├── ModelError              a model that cannot be logged, registered or loaded
    │   ├── ModelNotFound       no such version or alias
    │   └── LogitsDiffer        the exported model does not compute what the trained one does
    ├── VerdictError            text that is no verdict
    ├── LedgerError             the ledger cannot be read or written
    │   ├── LedgerUnavailable   its database does not answer, or has dropped us
    │   ├── LedgerBusy          somebody else has been promoting for longer than the time-out
    │   ├── LedgerMoved         somebody else has written the entry that we wanted to write
    │   ├── LockLost            the right to change champions ended while we were changing one
    │   ├── LedgerBroken        the ledger's newest entry is not what was once written
    │   └── HoldoutMissing      no such frozen holdout
    └── PromotionError          a promotion or rollback that must not be done
        ├── ChampionMoved       the verdict was against a champion that is no longer the champion
        └── NothingToRollBack   there is no earlier champion, and no original model to fall back on

``retriable`` says whether trying again later, with nothing changed, can help.
"""

from __future__ import annotations

from typing import ClassVar


class RegistryError(Exception):
    """Base of all errors of this package; the message names what to change, and where it happened."""

    retriable: ClassVar[bool] = False


class RegistrySettingsError(RegistryError):
    """Settings that contradict each other, or one that is needed and missing."""


class ServerError(RegistryError):
    """The local MLflow server cannot be started."""


class ServerPortTaken(ServerError):
    """The port that the local MLflow server should listen on is in use."""


class TrackingError(RegistryError):
    """MLflow answered, and refused what was asked."""


class MlflowUnavailable(TrackingError):
    """MLflow did not answer, or said that it cannot at the moment."""

    retriable: ClassVar[bool] = True


class ModelError(RegistryError):
    """A model that cannot be logged, registered or loaded."""


class ModelNotFound(ModelError):
    """The registered model has no such version, or no such alias."""


class LogitsDiffer(ModelError):
    """The exported model does not compute what the trained one does; it has not been logged."""


class VerdictError(RegistryError):
    """Text that was to be read as a verdict is none."""


class LedgerError(RegistryError):
    """The ledger cannot be read or written."""


class LedgerUnavailable(LedgerError):
    """The ledger's database does not answer, is being restarted, or is locked by somebody else."""

    retriable: ClassVar[bool] = True


class LedgerBusy(LedgerError):
    """Somebody else has held the right to promote for longer than the time-out."""

    retriable: ClassVar[bool] = True


class LedgerMoved(LedgerError):
    """Somebody else has written the entry that we wanted to write; what we knew is out of date."""

    retriable: ClassVar[bool] = True


class LockLost(LedgerError):
    """The right to change champions ended while we were changing one: PostgreSQL was restarted, or has dropped us."""

    retriable: ClassVar[bool] = True


class LedgerBroken(LedgerError):
    """The ledger's newest entry is not what was once written: nothing is added to it until a person has looked."""


class HoldoutMissing(LedgerError):
    """There is no such frozen holdout."""


class PromotionError(RegistryError):
    """A promotion or rollback that must not be done."""


class ChampionMoved(PromotionError):
    """The verdict was against a champion that is no longer the champion: judge again, against the present one."""

    retriable: ClassVar[bool] = True


class NothingToRollBack(PromotionError):
    """There is no earlier champion left to go back to, and no original model to fall back on."""
