"""The guard as a program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from streaming import guard


def run(*command: str, parent: int | None = None) -> subprocess.CompletedProcess[str]:
    arguments = (sys.executable, "-P", guard.__file__, str(parent or os.getpid()), "5", "--", *command)
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("code", "expected"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_it_ends_as_the_command_does(code: str, expected: int) -> None:
    assert run("sh", "-c", code).returncode == expected


def test_a_missing_command_is_named() -> None:
    done = run("no-such-program")
    assert done.returncode == 127
    assert done.stderr == "no-such-program: No such file or directory\n"


def test_with_its_parent_already_gone_it_ends_at_once() -> None:
    # Not its parent: as if it had died between starting the guard and the guard's first look.
    assert run(sys.executable, "-c", "import signal; signal.pause()", parent=1).returncode == 143


def test_the_exit_code_of_one_whose_threads_take_longer_is_its_own() -> None:
    """Its main thread is gone, so it looks dead, while another one still runs."""
    program = (
        "import ctypes, signal, sys, threading, time\n"
        "def ended(*_):\n"
        "    threading.Thread(target=lambda: (time.sleep(0.3), __import__('os')._exit(7))).start()\n"
        "    ctypes.CDLL(None).pthread_exit(None)\n"
        "signal.signal(signal.SIGTERM, ended)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    argv = [sys.executable, "-P", guard.__file__, str(os.getpid()), "5", "--", sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as guarded:
        assert guarded.stdout is not None
        guarded.stdout.readline()
        guarded.terminate()
        assert guarded.wait(20) == 7
