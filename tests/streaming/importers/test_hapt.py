from pathlib import Path

import numpy as np
import pytest

from streaming.errors import ImporterError
from streaming.importers import import_dataset
from streaming.recording import Recording, read_recording

STANDING = "1.0 0.0 -0.5"
TURNING = "0.25 -0.5 1.5"


def write(root: Path, experiment: int, user: int, acc: list[str], gyro: list[str] | None = None) -> None:
    folder = root / "RawData"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"exp{experiment:02d}_user{user:02d}.txt"
    (folder / f"acc_{name}").write_text("\n".join(acc) + "\n", encoding="ascii")
    if gyro is not None:
        (folder / f"gyro_{name}").write_text("\n".join(gyro) + "\n", encoding="ascii")


def label(root: Path, *lines: str) -> None:
    (root / "RawData" / "labels.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


def recording(dest: Path, name: str, user: int = 3) -> Recording:
    return read_recording(dest / f"hapt-{user:02d}" / f"{name}.parquet")


def test_a_labelled_stretch_becomes_a_recording_in_si_units(tmp_path: Path) -> None:
    acc = [f"{sample / 8} 0 1" for sample in range(1, 21)]
    write(tmp_path, 5, 3, acc, [TURNING] * 20)
    label(tmp_path, "5 3 1 4 8", "5 3 2 9 20")

    report = import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    walk = recording(tmp_path / "out", "exp05-001")
    assert (walk.scene, walk.phone_model, walk.position) == ("Walk", "Samsung Galaxy S II", "waist")
    # Samples 4 to 8, both included, counted from 1.
    np.testing.assert_allclose(walk.samples["accelerometer"].values[:, 0], np.arange(4, 9) / 8 * 9.80665, rtol=1e-6)
    np.testing.assert_allclose(walk.samples["gyroscope"].values, [[0.25, -0.5, 1.5]] * 5)
    stairs = recording(tmp_path / "out", "exp05-002")
    assert stairs.start_ns - walk.start_ns == 5 * 20_000_000
    assert stairs.scene == "Stairs"
    assert (report.written, report.sessions, report.subjects) == (2, 1, ("hapt-03",))
    assert report.notes == {"samples without a label left out": 3}


def test_postures_are_still_and_transitions_left_out(tmp_path: Path) -> None:
    write(tmp_path, 1, 3, [STANDING] * 120, [TURNING] * 120)
    label(tmp_path, *(f"1 3 {activity} {activity * 10 - 9} {activity * 10}" for activity in range(1, 13)))

    report = import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    scenes = [recording(tmp_path / "out", f"exp01-{number:03d}").scene for number in range(1, 7)]
    assert scenes == ["Walk", "Stairs", "Stairs", "Still", "Still", "Still"]
    assert report.written == 6
    assert report.notes == {"samples of postural transitions left out": 60}


def test_bad_samples_are_refused_by_line_and_sensor(tmp_path: Path) -> None:
    write(tmp_path, 1, 3, [STANDING, "1 2", "a b c", STANDING, STANDING], [TURNING, "", TURNING, "inf 0 0", "1 2 3 4"])
    label(tmp_path, "1 3 5 1 5")

    report = import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    assert [(one.file, one.row, one.rows) for one in report.refused] == [
        ("acc_exp01_user03.txt", 2, 2),
        ("gyro_exp01_user03.txt", 2, 1),
        ("gyro_exp01_user03.txt", 5, 1),
        ("gyro_exp01_user03.txt", 4, 1),
    ]
    one = recording(tmp_path / "out", "exp01-001")
    np.testing.assert_array_equal((one.samples["accelerometer"].time_ns - one.start_ns) // 20_000_000, [0, 3, 4])
    np.testing.assert_array_equal((one.samples["gyroscope"].time_ns - one.start_ns) // 20_000_000, [0, 2])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 3 13 5 9", "unknown activity 13"),
        ("1 4 1 5 9", "there is no acc_exp01_user04.txt"),
        ("1 3 1 9 5", "samples 9 to 5 are no stretch"),
        ("1 3 1 0 5", "samples 0 to 5 are no stretch"),
        ("1 3 1 5 11", "samples 5 to 11 go past the end of the signal, 10"),
        ("1 3 1 4 9", "samples 4 to 9 overlap the label before, which ends at 4"),
        ("1 3 1 five 9", "a value is missing"),
        ("1 3 1 5", "a value is missing"),
    ],
)
def test_a_bad_label_is_refused_by_line(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path, 1, 3, [STANDING] * 10, [TURNING] * 10)
    label(tmp_path, "1 3 5 1 4", line)

    report = import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    assert [(one.file, one.row) for one in report.refused] == [("labels.txt", 2)]
    assert reason in report.refused[0].reason
    assert report.written == 1


def test_without_its_gyroscope_an_experiment_has_its_accelerometer(tmp_path: Path) -> None:
    write(tmp_path, 1, 3, [STANDING] * 10)
    label(tmp_path, "1 3 5 1 10")

    report = import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    assert list(recording(tmp_path / "out", "exp01-001").samples) == ["accelerometer"]
    assert [(one.file, one.row) for one in report.refused] == [("gyro_exp01_user03.txt", 0)]


def test_experiments_of_a_user_do_not_overlap(tmp_path: Path) -> None:
    for experiment in (5, 6, 7):
        write(tmp_path, experiment, 3, [STANDING] * 10, [TURNING] * 10)
    label(tmp_path, *(f"{experiment} 3 5 1 10" for experiment in (7, 5, 6)))

    import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")

    recordings = [recording(tmp_path / "out", f"exp0{experiment}-001") for experiment in (5, 6, 7)]
    assert recordings[0].end_ns < recordings[1].start_ns < recordings[1].end_ns < recordings[2].start_ns


def test_labels_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, 1, 3, [STANDING])

    with pytest.raises(ImporterError, match=r"looked for labels\.txt .* found RawData/"):
        import_dataset("hapt", tmp_path, tmp_path / "out", cohort="target")
