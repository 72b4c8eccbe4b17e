"""Everything that can go wrong between Airflow and the commands it runs.

::

    DagError
    ├── CommandError           a command did not do what it was started for
    │   ├── CommandRefused     it cannot be done as things are: a person has to change something
    │   └── CommandFailed      it failed, and may work later
    ├── NothingToDo            a command looked and found no work; not a failure
    └── AirflowError           the Airflow of this machine
        ├── AirflowUnavailable it does not answer
        └── DagMissing         it does not know a DAG, or cannot read its file

``retriable`` says whether trying again later, with nothing changed, can help.
"""

from __future__ import annotations

from typing import ClassVar


class DagError(Exception):
    """Base of all errors of this package; the message names what to change, and where it happened."""

    retriable: ClassVar[bool] = False


class CommandError(DagError):
    """A command did not do what it was started for; the message is the command's own."""


class CommandRefused(CommandError):
    """It cannot be done as things are: a person has to change something first."""


class CommandFailed(CommandError):
    """It failed, was killed, or could not reach something."""

    retriable: ClassVar[bool] = True


class NothingToDo(DagError):
    """A command looked and found no work; the message says what is missing."""


class AirflowError(DagError):
    """Airflow on this machine cannot be set up, or refuses what was asked."""


class AirflowUnavailable(AirflowError):
    """Airflow does not answer, or not in time."""

    retriable: ClassVar[bool] = True


class DagMissing(AirflowError):
    """Airflow does not know a DAG; the message has its file's import error, if that is why."""
