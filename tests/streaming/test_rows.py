"""Rows of the ``windows`` table, and what making them costs a consumer."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from streaming.assembler import Assembler
from streaming.rows import windows_table
from tests.streaming.sessions import NOW, SETTINGS, batch
assembler = Assembler(SETTINGS, {})
closed = [each for n in range(9) for each in assembler.add(batch(n, end=n == 8), n, NOW)] + assembler.flush()
rows = [windows_table(some, SETTINGS, topic="t", partition=0, ingested_at=NOW).num_rows for some in (closed, [])]
assert rows == [9, 0], rows
sys.exit("pandas" in sys.modules)
"""


def test_they_are_made_without_pandas() -> None:
    """pyarrow imports it by itself where it can: a second or two of a consumer's start, and 60 MB for good."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=False)
    assert done.returncode == 0
