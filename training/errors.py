"""Everything that can go wrong between the lake and a model.

::

    TrainingError
    ├── SettingsError          a setting is unknown or of the wrong kind
    ├── DataError              the windows do not allow what was asked
    │   ├── NoSuchCohort       the lake has no window of it
    │   ├── TooFewLabels       not enough labelled windows
    │   ├── MissingScene       a scene without windows where it needs some, or one that the model does not know
    │   └── TooFewSubjects     not enough people to split by
    ├── ModelError             a saved model that cannot be read, or does not fit
    ├── RunError               a folder of results that cannot be read, or belongs to something else
    ├── NonFiniteLoss          the loss became NaN or infinite; nothing was stepped after it
    └── OutOfMemory            the device's memory does not do for one window at a time

``retriable`` says whether trying again later, with nothing changed, can help.
"""

from __future__ import annotations

from typing import ClassVar


class TrainingError(Exception):
    """Base of all errors of this package; the message names what is missing, and the setting to change."""

    retriable: ClassVar[bool] = False


class SettingsError(TrainingError):
    """A setting is unknown or of the wrong kind."""


class DataError(TrainingError):
    """The windows do not allow what was asked."""


class NoSuchCohort(DataError):
    """The lake has no window of the cohort."""


class TooFewLabels(DataError):
    """There are not enough labelled windows."""


class MissingScene(DataError):
    """A scene has no window where it needs some, or the model does not know it."""


class TooFewSubjects(DataError):
    """There are not enough people to split by: a model must be tried on people it has not seen."""


class ModelError(TrainingError):
    """A saved model cannot be read, or does not fit what it is asked to do."""


class RunError(TrainingError):
    """A folder of results cannot be read, or belongs to something else."""


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite. The optimizer was not stepped with it; the message says where."""


class OutOfMemory(TrainingError):
    """The device's memory does not do for one window at a time. Another program may hold it."""

    retriable: ClassVar[bool] = True
