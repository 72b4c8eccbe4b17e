"""SIGTERM, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_HERE = """
import os, signal, time, weakref
from dags.stopping import stop_by_exception

def hit(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass

class Thing:
    def __del__(self):
        if {finaliser}:
            hit()

stop_by_exception()
thing = Thing()
try:
    kept = None if {finaliser} else weakref.ref(thing, hit)
    {act}
    for _ in range(200):
        time.sleep(0.05)
    print("nobody stopped it")
finally:
    os.kill(os.getpid(), signal.SIGTERM)  # once is enough: what ends is not interrupted
    time.sleep(0.2)
    print("ended as it should")
"""


@pytest.mark.parametrize(
    ("act", "finaliser"),
    [("hit()", False), ("del thing", False), ("del thing", True)],
    ids=["plain", "weak reference", "finaliser"],
)
def test_a_process_that_is_told_to_stop_ends_by_an_exception_wherever_it_was(act: str, finaliser: bool) -> None:
    """Also where Python lets exceptions go nowhere, in a callback of the garbage collector's."""
    script = _HERE.format(act=act, finaliser=finaliser)
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "ended as it should\n"), done.stderr
    assert not done.stderr


def test_what_else_is_lost_there_is_still_said() -> None:
    script = "\n".join((
        "from dags.stopping import stop_by_exception", "stop_by_exception()", "class Thing:", "    def __del__(self):",
        "        raise ValueError('lost')", "thing = Thing()", "del thing",
    ))  # fmt: skip
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, timeout=60, check=True)
    assert "ValueError: lost" in done.stderr
