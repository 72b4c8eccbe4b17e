"""What becomes of an Airflow task when its command has ended.

| the command | the task |
|---|---|
| is done | success; its answer is the XCom |
| has nothing to do | skipped, and so is what comes after it |
| cannot be done as things are | failed at once, however many tries are left |
| failed otherwise | failed; tried again as often as the task says |

A failure leaves a sentence in the task's log and no traceback: where in our code or Airflow's an exit code was looked at says
nothing about a scene without labels. Airflow writes a traceback for every exception but one, :class:`SystemExit`; hence
:class:`TaskFailed`, and :class:`RetryByOutcome` in place of ``AirflowFailException``.
"""

# mypy: disable-error-code="misc"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

import logging
import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowSkipException

from dags import commands
from dags.errors import CommandError, NothingToDo

_log = logging.getLogger(__name__)


class TaskFailed(SystemExit):
    """Ends the task as failed; its ``code`` is the message, which is what Airflow writes into the log."""

    def __init__(self, message: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.retriable = retriable


class RetryByOutcome(RetryPolicy):
    """No further try for what cannot be done as things are; any other failure is the task's own ``retries`` to decide."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Any = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Decide after a failure; Airflow asks in the task's process."""
        if isinstance(exception, TaskFailed) and not exception.retriable:
            return RetryDecision.fail("it cannot be done as things are, so trying again is useless")
        return RetryDecision.default()


def sensorloop(
    *arguments: str, executable: str, grace: timedelta, silence: timedelta | None = None, scratch: str = ""
) -> dict[str, Any]:
    """Run a command of ours as the work of a task; its stderr becomes the task's log.

    Args:
        arguments: what follows ``sensorloop``.
        executable: the program; empty for the ``sensorloop`` beside this Python.
        grace: what it gets to end in when the task is stopped, see :func:`dags.commands.run`.
        silence: how long it may say nothing, likewise.
        scratch: folder for its temporary files; empty: the system's.

    Returns:
        The command's answer.

    Raises:
        AirflowSkipException: there is no work.
        TaskFailed: the command did not do it.
    """
    command = (executable or str(Path(sys.executable).with_name("sensorloop")), *arguments)
    _log.info("$ %s", shlex.join((Path(command[0]).name, *arguments)))
    try:
        env = {**os.environ, "TMPDIR": scratch} if scratch else None
        return commands.run(command, report=_log_line, grace=grace, silence=silence, env=env)
    except NothingToDo as nothing:
        raise AirflowSkipException(str(nothing)) from None
    except CommandError as failure:
        raise TaskFailed(str(failure), retriable=failure.retriable) from None


def _log_line(line: str) -> None:
    if line.strip():
        _log.log(logging.ERROR if line.startswith(commands.PREFIX) else logging.INFO, "%s", line)
