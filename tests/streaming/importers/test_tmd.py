from pathlib import Path

import numpy as np
import pytest

from streaming.errors import ImporterError
from streaming.importers import import_dataset
from streaming.recording import Recording, read_recording

EPOCH_MS = 1_480_000_000_000
ACC = "android.sensor.accelerometer"


def write(root: Path, lines: list[str], *, user: str = "U7", mode: str = "Walking", epoch_ms: int = EPOCH_MS) -> None:
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"sensorfile_{user}_{mode}_{epoch_ms}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def recording(dest: Path, part: int = 1, *, user: str = "U7", mode: str = "Walking") -> Recording:
    return read_recording(dest / f"tmd-{user}" / f"{EPOCH_MS}-{mode}-{part}.parquet")


def test_sensors_units_and_true_times(tmp_path: Path) -> None:
    write(
        tmp_path / "raw",
        [
            f"7,{ACC},0.5,-1.5,9.75",
            "60,android.sensor.gyroscope,0.25,0.5,-0.5",
            "60,android.sensor.magnetic_field,20.0,-40.5,1.0",
            "110,android.sensor.linear_acceleration,0.5,0,0",
            "160,android.sensor.gravity,0,0,9.5",
            "210,android.sensor.pressure,1001.5,0.0,0.0",
            f"260,{ACC},1,2,3",
        ],
    )

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    one = recording(tmp_path / "out")
    assert (one.scene, one.subject_id, one.device_id) == ("Walk", "tmd-U7", "tmd-U7-phone")
    assert {name: samples.values.tolist() for name, samples in one.samples.items()} == {
        "accelerometer": [[0.5, -1.5, 9.75], [1, 2, 3]],
        "gyroscope": [[0.25, 0.5, -0.5]],
        "magnetometer": [[20.0, -40.5, 1.0]],
        "linear_acceleration": [[0.5, 0, 0]],
        "gravity": [[0, 0, 9.5]],
        "pressure": [[1001.5]],
    }
    assert one.samples["accelerometer"].time_ns.tolist() == [(EPOCH_MS + ms) * 10**6 for ms in (7, 260)]
    assert report.minutes == pytest.approx({"Walk": 0.253 / 60})
    assert not report.refused


@pytest.mark.parametrize(
    ("mode", "scene"), [("Still", "Still"), ("Walking", "Walk"), ("Car", "Car"), ("Bus", "Bus"), ("Train", "Train")]
)
def test_modes_become_scenes(tmp_path: Path, mode: str, scene: str) -> None:
    write(tmp_path, [f"0,{ACC},1,2,3"], mode=mode)

    import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    assert recording(tmp_path / "out", mode=mode).scene == scene


def test_other_sensors_are_left_out_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        [f"0,{ACC},1,2,3", "1,android.sensor.light,4,5,6", "-40,sound,0.5", "2,,1,2,3,4,5,6,7,8", "3,speed,1,2"],
    )

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    assert report.notes == {
        "rows of '' left out": 1,
        "rows of 'android.sensor.light' left out": 1,
        "rows of 'sound' left out": 1,
        "rows of 'speed' left out": 1,
    }
    assert report.samples == 1


def test_after_the_clock_is_set_back_later_times_are_moved_on(tmp_path: Path) -> None:
    times = [0, 5000, 5100, 5200, 4700, 4800, 4900]
    write(tmp_path, [f"{ms},{ACC},{value},0,0" for value, ms in enumerate(times)])

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    samples = recording(tmp_path / "out").samples["accelerometer"]
    # The order of the log is kept; the step back becomes the usual pause between two rows, here 100 ms.
    assert (samples.time_ns // 10**6 - EPOCH_MS).tolist() == [0, 5000, 5100, 5200, 5300, 5400, 5500]
    assert samples.values[:, 0].tolist() == list(range(7))
    assert report.notes == {"times the phone's clock was set back, later times moved on": 1}


def test_where_the_log_starts_over_it_is_cut(tmp_path: Path) -> None:
    write(tmp_path, [f"{ms},{ACC},{value},0,0" for value, ms in enumerate([100, 40_000, 5, 200, 2000, 300])])

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    parts = [recording(tmp_path / "out", part) for part in (1, 2, 3)]
    assert [part.samples["accelerometer"].values[:, 0].tolist() for part in parts] == [[0, 1], [2, 3, 4], [5]]
    assert [(part.start_ns // 10**6 - EPOCH_MS) for part in parts] == [100, 41_000, 43_995]
    assert report.notes == {"times the log started over, cut there": 2}
    assert (report.written, report.sessions) == (3, 1)


def test_bad_rows_are_refused_by_line(tmp_path: Path) -> None:
    rows = [f"r0,{ACC},1,2,3", f"10,{ACC},1,2,3", f"20,{ACC},1,2", "", f"30,{ACC},1,NaN,3", f"40,{ACC},4,5,6"]
    write(tmp_path, [*rows, f"9e99,{ACC},1,2,3", f"50,{ACC},7,8,9"])

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    assert sorted(one.row for one in report.refused) == [1, 3, 4, 5, 7]
    assert {one.file for one in report.refused} == {f"sensorfile_U7_Walking_{EPOCH_MS}.csv"}
    samples = recording(tmp_path / "out").samples["accelerometer"]
    assert (samples.time_ns // 10**6 - EPOCH_MS).tolist() == [10, 40, 50]


def test_a_folder_a_user_will_do(tmp_path: Path) -> None:
    for user in ("U1", "U2"):
        write(tmp_path / "raw_data" / user, [f"0,{ACC},1,2,3"], user=user)

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    assert report.subjects == ("tmd-U1", "tmd-U2")


def test_a_file_with_another_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [f"0,{ACC},1,2,3"])
    write(tmp_path, [f"0,{ACC},1,2,3"], mode="Boat")

    report = import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    assert [(one.file, one.row) for one in report.refused] == [(f"sensorfile_U7_Boat_{EPOCH_MS}.csv", 0)]
    assert "Still, Walking, Car, Bus, Train" in report.refused[0].reason


def test_a_file_of_nothing_but_garbage_gives_no_recording(tmp_path: Path) -> None:
    write(tmp_path, ["hello", "world"])

    with pytest.raises(ImporterError, match="no recording of tmd could be made"):
        import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    write(tmp_path, [f"{ms},{ACC},1,2,3" for ms in (0, 50, 640_000, 640_050)])

    import_dataset("tmd", tmp_path, tmp_path / "out", cohort="target")

    time_ns = recording(tmp_path / "out").samples["accelerometer"].time_ns
    assert np.diff(time_ns).tolist() == [50_000_000, 639_950_000_000, 50_000_000]
