from pathlib import Path

import numpy as np
import pytest

from streaming.errors import ImporterError
from streaming.importers import import_dataset
from streaming.recording import Recording, read_recording

HEADER = (
    ",attitude.roll,attitude.pitch,attitude.yaw,gravity.x,gravity.y,gravity.z,"
    "rotationRate.x,rotationRate.y,rotationRate.z,userAcceleration.x,userAcceleration.y,userAcceleration.z"
)
AT_REST = "0.1,0.2,0.3,0.0,0.0,-1.0,0.5,-0.25,0.125,0.0,0.0,0.0"
ACTIVITIES = {"dws_1": "Stairs", "ups_3": "Stairs", "wlk_7": "Walk", "jog_9": "Run", "sit_5": "Still", "std_6": "Still"}


def write(root: Path, trial: str, subject: int, rows: list[str], header: str = HEADER) -> Path:
    path = root / "A_DeviceMotion_data" / trial / f"sub_{subject}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(f"{number},{row}" for number, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def everything(root: Path, rows: list[str]) -> None:
    for trial in ACTIVITIES:
        write(root, trial, 4, rows)


def recording(dest: Path, trial: str, subject: int = 4) -> Recording:
    return read_recording(dest / f"motionsense-{subject:02d}" / f"{trial}.parquet")


def test_a_phone_at_rest_face_up_reads_plus_g(tmp_path: Path) -> None:
    write(tmp_path, "wlk_7", 4, [AT_REST] * 3)

    import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")

    samples = recording(tmp_path / "out", "wlk_7").samples
    np.testing.assert_allclose(samples["accelerometer"].values, [[0, 0, 9.80665]] * 3, rtol=1e-6)
    np.testing.assert_allclose(samples["gravity"].values, [[0, 0, 9.80665]] * 3, rtol=1e-6)
    np.testing.assert_allclose(samples["gyroscope"].values, [[0.5, -0.25, 0.125]] * 3)


def test_acceleration_is_gravity_plus_user_acceleration_in_g_negated(tmp_path: Path) -> None:
    write(tmp_path, "wlk_7", 4, ["0,0,0,0.1,0.2,0.3,0,0,0,0.5,-0.5,1.0"])

    import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")

    samples = recording(tmp_path / "out", "wlk_7").samples
    np.testing.assert_allclose(samples["accelerometer"].values, [[-0.6 * 9.80665, 0.3 * 9.80665, -1.3 * 9.80665]])
    np.testing.assert_allclose(samples["linear_acceleration"].values, [[-4.903325, 4.903325, -9.80665]])


def test_activities_become_scenes_and_files_sessions(tmp_path: Path) -> None:
    everything(tmp_path, [AT_REST] * 101)

    report = import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="berlin")

    assert {trial: recording(tmp_path / "out", trial).scene for trial in ACTIVITIES} == ACTIVITIES
    assert report.written == report.sessions == 6
    assert report.subjects == ("motionsense-04",)
    assert report.samples == 6 * 4 * 101
    assert report.minutes == pytest.approx({"Run": 1 / 30, "Stairs": 2 / 30, "Still": 2 / 30, "Walk": 1 / 30})
    one = recording(tmp_path / "out", "jog_9")
    assert (one.device_id, one.session_id, one.cohort) == ("motionsense-04-phone", "jog_9", "berlin")
    assert (one.phone_model, one.position) == ("iPhone 6s", "front pocket")


def test_samples_are_20_ms_apart_and_trials_follow_each_other(tmp_path: Path) -> None:
    everything(tmp_path, [AT_REST] * 5)

    import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")

    by_number = sorted(ACTIVITIES, key=lambda trial: int(trial.split("_")[1]))
    recordings = [recording(tmp_path / "out", trial) for trial in by_number]
    starts = [one.start_ns for one in recordings]
    assert starts == sorted(set(starts))
    np.testing.assert_array_equal(
        recordings[0].samples["gyroscope"].time_ns - starts[0], np.arange(5, dtype=np.int64) * 20_000_000
    )


def test_bad_rows_are_refused_with_their_line_and_leave_a_gap(tmp_path: Path) -> None:
    bad = [AT_REST, AT_REST.replace("-1.0", "nan"), AT_REST.replace("-1.0", "x"), AT_REST, "1,2", AT_REST + ",7", ""]
    write(tmp_path, "wlk_7", 4, [*bad, AT_REST])

    report = import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")

    assert [(one.file, one.row, one.rows) for one in report.refused] == [
        ("wlk_7/sub_4.csv", 7, 1),
        ("wlk_7/sub_4.csv", 3, 2),
        ("wlk_7/sub_4.csv", 6, 1),
        ("wlk_7/sub_4.csv", 8, 1),
    ]
    assert report.refused[0].reason == "more than 13 fields"
    assert "no finite number" in report.refused[1].reason
    time_ns = recording(tmp_path / "out", "wlk_7").samples["accelerometer"].time_ns
    np.testing.assert_array_equal((time_ns - time_ns[0]) // 20_000_000, [0, 3, 7])


def test_a_file_with_another_header_is_refused_and_the_rest_imported(tmp_path: Path) -> None:
    everything(tmp_path, [AT_REST])
    write(tmp_path, "wlk_7", 5, ["1,2,3"], header=",x,y,z")
    write(tmp_path, "fly_20", 4, [AT_REST])
    write(tmp_path, "jog_9", 6, []).write_bytes(b"")

    report = import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")

    assert report.written == 6
    assert [(one.file, one.row) for one in report.refused] == [
        ("fly_20/sub_4.csv", 0),
        ("wlk_7/sub_5.csv", 0),
        ("jog_9/sub_6.csv", 0),
    ]
    assert "unknown activity 'fly'" in report.refused[0].reason
    assert "looked for column 'gravity.x', found , x, y, z" in report.refused[1].reason
    assert "looked for column 'gravity.x', found an empty file" in report.refused[2].reason


def test_only_files_of_another_layout_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "wlk_7", 5, ["1,2,3"], header=",x,y,z")

    with pytest.raises(ImporterError, match=r"no recording of motionsense could be made: wlk_7/sub_5.csv: .*gravity.x"):
        import_dataset("motionsense", tmp_path, tmp_path / "out", cohort="source")
