"""``sensorloop finetune`` or ``promote`` as a process that is killed right before a named step, or waits there for another.

Each is a real process with the command line's own main, forked from a server that has the imports behind it; what is killed, by
SIGKILL, is as dead as any. The steps are those of the modules' docstrings; nothing but the waiting and the dying is the bench's own.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PRELOADED = [
    "benchmarks.promotion_process", "sensorloop", "dags.retraining", "dags.judging", "dags.local.judging", "dags.holdout",
    "dags.settings", "registry.models",
    "registry.tracker", "registry.promotion", "registry.registered", "registry.holdouts", "registry.notices", "registry.gate",
    "training.arms", "training.original", "mlflow.pytorch", "polars", "deltalake", "imblearn.over_sampling",
    "imblearn.under_sampling", "onnx", "onnxscript", "onnxruntime", "pandas",
]  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)
_PR_SET_PDEATHSIG = 1

TRAINING = ("an arm is trained", "an arm is kept", "an arm is logged", "the results are written")
"""Steps of ``finetune``: the process is dead before it."""
PROMOTING = (
    "the model is logged", "it is registered", "the question is counted", "it is tagged", "the entry is written",
    "the alias is moved", "the challenger is no more", "it is sealed", "the entry is settled", "it is answered",
)  # fmt: skip
"""Steps of ``promote``, likewise."""
TOGETHER = "two promote"
"""Where a process waits until the other is there, too."""


class Command:
    """The process.

    Args:
        environ: its settings.
        log: gets what it says.
        arguments: of ``sensorloop``.
        kill_before: the step.
        together: makes processes wait for each other before they take the ledger's lock.
        trained: file that gets a line for each arm that is trained to its end.
    """

    def __init__(
        self,
        environ: dict[str, str],
        log: Path,
        *arguments: str,
        kill_before: str = "",
        together: Any = None,
        trained: Path,
    ) -> None:
        self._log = log
        target = (environ, log, arguments, kill_before, together, trained)
        self._process = _context.Process(target=_run, args=target, daemon=True)
        self._process.start()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def wait(self, timeout: float = 300) -> int | None:
        """Its exit code, a negative signal; None if it still runs after so many seconds, and is then killed."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join(30)
        return code


def barrier(processes: int) -> Any:
    """What so many commands can wait at."""
    return _context.Barrier(processes)


def _run(
    environ: dict[str, str], log: Path, arguments: tuple[str, ...], kill_before: str, together: Any, trained: Path
) -> None:
    # The server ends with the bench; whoever it has forked must not go on alone.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(environ)
    import sensorloop  # noqa: PLC0415  # the server has it

    def reached(step: str) -> None:
        if step and step == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == TOGETHER and together is not None:
            together.wait(120)

    _watch(reached, trained)
    sys.argv = ["sensorloop", *arguments]
    sensorloop.main()


def _watch(reached: Callable[[str], None], trained: Path) -> None:
    """Let ``reached`` be called right before each step, with the step's name."""
    import registry.models  # noqa: PLC0415
    import sensorloop  # noqa: PLC0415
    from dags import retraining  # noqa: PLC0415
    from registry.holdouts import Holdouts  # noqa: PLC0415
    from registry.ledger import Ledger  # noqa: PLC0415
    from registry.promotion import Promotions  # noqa: PLC0415
    from registry.registered import MlflowVersions  # noqa: PLC0415
    from registry.versions import Alias, Tag  # noqa: PLC0415
    from training import arms  # noqa: PLC0415

    def before(owner: Any, name: str, step: Callable[..., str]) -> None:
        theirs = getattr(owner, name)

        def watched(*given: Any, **options: Any) -> Any:
            reached(step(*given, **options))
            return theirs(*given, **options)

        setattr(owner, name, watched)

    theirs = arms._run  # noqa: SLF001  # where an arm has been trained: the only place that knows

    def counted(*given: Any, **options: Any) -> Any:
        reached("an arm is trained")
        result = theirs(*given, **options)
        with trained.open("a", encoding="utf-8") as file:
            file.write(f"{os.environ['BENCH_RUN_KEY']} {given[1]}\n")
        return result

    arms._run = counted  # noqa: SLF001
    before(arms, "_save", lambda *_: "an arm is kept")
    before(arms, "_log", lambda *_: "an arm is logged")
    before(retraining, "whole", lambda *_: "the results are written")
    before(registry.models, "log_model", lambda *_, **__: "the model is logged")
    before(MlflowVersions, "register", lambda *_, **__: "it is registered")
    before(Holdouts, "ask", lambda *_: "the question is counted")
    before(Promotions, "promote", lambda *_, **__: TOGETHER)
    before(MlflowVersions, "tag", lambda _, __, tags: "it is sealed" if Tag.LEDGER in tags else "it is tagged")
    before(Ledger, "append", lambda *_, **__: "the entry is written")
    before(MlflowVersions, "point", lambda _, alias, __: "the alias is moved" if alias == Alias.CHAMPION else "")
    before(MlflowVersions, "unpoint", lambda *_: "the challenger is no more")
    before(Ledger, "settle", lambda *_: "the entry is settled")
    before(sensorloop, "result", lambda **_: "it is answered")
