from pathlib import Path

import numpy as np
import pytest

from streaming.errors import ImporterError
from streaming.importers.dataset import Findings
from streaming.importers.frames import FrameFile
from streaming.importers.text import find_root, read_table


def test_lines_are_counted_through_empty_ones_and_windows_endings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"x","y"\r\n1,2\r\n\r\n 3 ,4\r\n\r\n')
    findings = Findings()

    table = read_table(tmp_path / "a.csv", tmp_path, columns=None, separator=",", findings=findings)

    assert list(table.columns) == ["x", "y"]
    assert table.lines.tolist() == [2, 4]
    assert [(one.row, one.reason) for one in findings.refused] == [(3, "the line is empty")]


def test_any_white_space_parts_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  1\t2   3 \n4 5 6", encoding="ascii")

    table = read_table(tmp_path / "a.txt", tmp_path, columns=("x", "y", "z"), separator=None, findings=Findings())

    np.testing.assert_array_equal(table.numbers(("z", "x")), [[3, 1], [6, 4]])


def test_bytes_that_are_no_text_are_refused_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff\xfe\x00,\x80\n3,4\n")
    findings = Findings()

    table = read_table(tmp_path / "a.csv", tmp_path, columns=("x", "y"), separator=",", findings=findings)
    kept = table.complete(table.numbers(("x", "y")), findings)

    assert table.lines[kept].tolist() == [1, 3]
    assert [(one.file, one.row) for one in findings.refused] == [("a.csv", 2)]


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_file_is_an_empty_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="ascii")

    table = read_table(tmp_path / "a.csv", tmp_path, columns=("x",), separator=",", findings=Findings())

    assert table.numbers(("x",)).shape == (0, 1)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match="cannot be read"):
        read_table(tmp_path, tmp_path.parent, columns=("x",), separator=",", findings=Findings())
    with pytest.raises(ImporterError, match="cannot be read"):
        FrameFile(tmp_path)


def test_the_nearest_folder_counts(tmp_path: Path) -> None:
    for folder in (tmp_path / "one" / "raw", tmp_path / "one" / "raw" / "raw"):
        folder.mkdir(parents=True)
        (folder / "labels.txt").touch()

    assert find_root(tmp_path, ("labels.txt",), "it") == tmp_path / "one" / "raw"


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match="found an empty folder"):
        find_root(tmp_path, ("labels.txt",), "it")


def test_frames_can_be_read_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n3\t4 \n5 NaN\n\n", encoding="ascii")

    frames = FrameFile(tmp_path / "a.txt")

    assert len(frames) == 3
    assert [np.asarray(frames.frame(row, 2)).tolist() for row in (1, 0)] == [[3, 4], [1, 2]]
    last = frames.frame(2, 2)
    assert isinstance(last, np.ndarray)
    assert np.isnan(last[1])
    assert frames.frame(1, 3) == "2 values; a frame has 3"
