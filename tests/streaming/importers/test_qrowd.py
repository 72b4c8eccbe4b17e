from pathlib import Path

import numpy as np
import pytest

from streaming.errors import ImporterError
from streaming.importers import import_dataset
from streaming.recording import Recording, read_recording


def write_mode(root: Path, mode: str, rows: list[tuple[str, str]], label: str | None = None) -> None:
    path = root / "six_modes_2018-05-07" / f"{mode}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{user}",{values},"{label or mode}"' for user, values in rows]
    path.write_text("\n".join(['"user","x","y","z","class"', *lines]) + "\n", encoding="ascii")


def write_run(root: Path, user: int, values: list[str]) -> None:
    path = root / "cs199_first_commit" / "run" / f"user{user}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{value},"run"' for value in values]
    path.write_text("\n".join(['"x","y","z","class"', *lines]) + "\n", encoding="ascii")


def recording(dest: Path, name: str, user: str = "1") -> Recording:
    return read_recording(dest / f"qrowd-{user}" / f"{name}.parquet")


def test_a_stretch_of_one_user_is_a_session_at_15_hz(tmp_path: Path) -> None:
    write_mode(tmp_path, "bike", [("1", "0.5,1.5,9.5")] * 31 + [("2", "1,2,3")] * 4 + [("1", "4,5,6")] * 2)

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    first, second = recording(tmp_path / "out", "01-bike"), recording(tmp_path / "out", "02-bike")
    assert first.scene == "Bike"
    np.testing.assert_array_equal(first.samples["accelerometer"].values, [[0.5, 1.5, 9.5]] * 31)
    assert first.end_ns - first.start_ns == 2 * 10**9
    assert np.all(first.samples["accelerometer"].time_ns % 1000 == 0)
    np.testing.assert_array_equal(second.samples["accelerometer"].values, [[4, 5, 6]] * 2)
    assert second.start_ns > first.end_ns
    assert recording(tmp_path / "out", "01-bike", "2").size == 4
    assert (report.written, report.subjects) == (3, ("qrowd-1", "qrowd-2"))


def test_runs_are_at_24_hz_and_of_the_same_users(tmp_path: Path) -> None:
    write_mode(tmp_path, "still", [("1", "0,0,9.8")])
    write_run(tmp_path, 1, ["1,2,3"] * 49)

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    one = recording(tmp_path / "out", "02-run")
    assert one.scene == "Run"
    assert one.end_ns - one.start_ns == 2 * 10**9
    assert report.subjects == ("qrowd-1",)


@pytest.mark.parametrize("mode", ["still", "walk", "run", "bike", "car", "bus", "train"])
def test_modes_become_scenes(tmp_path: Path, mode: str) -> None:
    write_mode(tmp_path, mode, [("1", "1,2,3")])

    import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    assert recording(tmp_path / "out", f"01-{mode}").scene == mode.title()


def test_bad_rows_are_refused_by_line_and_keep_their_place_in_time(tmp_path: Path) -> None:
    write_mode(
        tmp_path,
        "car",
        [("1", "1,2,3"), ("1", "1,,3"), ("1", "1,2,3,4"), ("../1", "1,2,3"), ("", "1,2,3"), ("1", "4,5,6")],
    )

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    file = "six_modes_2018-05-07/car.csv"
    assert sorted((one.file, one.row, one.rows) for one in report.refused) == [(file, 3, 1), (file, 4, 1), (file, 5, 2)]
    one = recording(tmp_path / "out", "01-car")
    assert one.samples["accelerometer"].values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert one.end_ns - one.start_ns == pytest.approx(5 / 15 * 1e9, abs=1000)


def test_a_row_of_another_class_is_refused(tmp_path: Path) -> None:
    write_mode(tmp_path, "car", [("1", "1,2,3")])
    write_mode(tmp_path, "bus", [("1", "1,2,3")], label="train")

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    assert [(one.file, one.row) for one in report.refused] == [("six_modes_2018-05-07/bus.csv", 2)]
    assert "class is not 'bus'" in report.refused[0].reason


def test_the_repository_itself_will_do(tmp_path: Path) -> None:
    write_mode(tmp_path, "car", [("1", "1,2,3")])
    (tmp_path / "six_modes_2018-05-07").rename(tmp_path / "datasets")

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    assert report.written == 1


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    write_mode(tmp_path, "car", [("1", "1,2,3")])
    write_mode(tmp_path, "boat", [("1", "1,2,3")])

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    assert [(one.file, one.row) for one in report.refused] == [("six_modes_2018-05-07/boat.csv", 0)]
    assert "unknown mode 'boat'" in report.refused[0].reason


def test_a_file_with_another_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "six_modes_x" / "car.csv"
    path.parent.mkdir()
    path.write_text("a,b,c\n1,2,3\n", encoding="ascii")

    with pytest.raises(ImporterError, match=r"car\.csv: looked for column 'x', found a, b, c"):
        import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")


def test_more_than_two_hours_would_run_into_the_next_session(tmp_path: Path) -> None:
    rows = 2 * 3600 * 15
    write_mode(tmp_path, "train", [("1", "1,2,3")] * (rows + 2))

    report = import_dataset("qrowd", tmp_path, tmp_path / "out", cohort="source")

    assert report.samples == rows
    assert [(one.row, one.rows) for one in report.refused] == [(rows + 2, 2)]
    assert "longer than 2 h" in report.refused[0].reason
