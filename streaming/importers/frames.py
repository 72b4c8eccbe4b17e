"""Text files with a long frame of samples on each line, read line by line in any order.

The whole of SHL-2018 is some twenty gigabytes of text: too much to hold, and its lines are shuffled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streaming.errors import ImporterError


class FrameFile:
    """One channel: a frame a line, its samples parted by white space."""

    def __init__(self, path: Path) -> None:
        """Finds where the lines start; reads the file once.

        Raises:
            ImporterError: the file cannot be read.
        """
        self.path = path
        self._starts: list[int] = []
        start = used = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    self._starts.append(start)
                    start += len(line)
                    used = len(self._starts) if line.strip() else used
        except OSError as error:
            msg = f"{path}: cannot be read: {error}"
            raise ImporterError(msg) from error
        del self._starts[used:]  # empty lines at the end

    def __len__(self) -> int:
        """Number of lines."""
        return len(self._starts)

    def frame(self, row: int, samples: int) -> NDArray[np.float64] | str:
        """The samples (samples,) of a line, counted from 0; NaN where the file says so.

        Returns:
            The samples, or what is wrong with the line.
        """
        with self.path.open("rb") as file:
            file.seek(self._starts[row])
            fields = file.readline().split()
        if len(fields) != samples:
            return f"{len(fields)} values; a frame has {samples}"
        try:
            return np.array(fields, dtype=np.float64)
        except ValueError as error:
            return f"not a number: {error}"
