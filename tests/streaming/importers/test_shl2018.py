from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming.errors import ImporterError
from streaming.importers import ImportOptions, import_dataset
from streaming.importers.dataset import EPOCH_NS
from streaming.recording import Recording, Samples, read_recording, scan

FRAME = 6000
MINUTE_NS = 60 * 10**9
STEMS = {
    "Acc": ("accelerometer", "xyz"),
    "Gyr": ("gyroscope", "xyz"),
    "Mag": ("magnetometer", "xyz"),
    "LAcc": ("linear_acceleration", "xyz"),
    "Gra": ("gravity", "xyz"),
    "Ori": (None, "wxyz"),
}
CHANNELS = [*(f"{stem}_{axis}" for stem, (_, axes) in STEMS.items() for axis in axes), "Pressure"]
ACC_ONLY = ImportOptions(sensors=("accelerometer",), blocks=1)


def value(channel: str, row: int) -> NDArray[np.float64]:
    """Made-up numbers that tell channel, line and sample apart: 3.25 + sample / 8192 is line 3 of the first channel."""
    return 10.0 * CHANNELS.index(channel) + row + np.arange(FRAME) / 8192


def write(root: Path, order: list[int], labels: list[list[int]], channels: list[str] | None = None) -> Path:
    """A train folder; a frame's labels are given as that many equal parts."""
    folder = root / "train"
    folder.mkdir(parents=True)
    for channel in channels or CHANNELS:
        lines = [" ".join(f"{number:.7g}" for number in value(channel, row)) for row in range(len(order))]
        (folder / f"{channel}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    parts = [" ".join(str(label) for label in np.repeat(frame, FRAME // len(frame))) for frame in labels]
    (folder / "Label.txt").write_text("\n".join(parts) + "\n", encoding="ascii")
    (folder / "train_order.txt").write_text("\n".join(map(str, order)) + "\n", encoding="ascii")
    return folder


def write_acc(root: Path, order: list[int], labels: list[list[int]]) -> Path:
    return write(root, order, labels, ["Acc_x", "Acc_y", "Acc_z"])


def recordings(dest: Path) -> dict[str, Recording]:
    found = {}
    for path, one in scan(dest):
        assert isinstance(one, Recording)
        found[path.stem] = one
    return found


def replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text(encoding="ascii").split("\n")
    lines[line - 1] = text
    path.write_text("\n".join(lines), encoding="ascii")


def test_every_sensor_of_a_frame(tmp_path: Path) -> None:
    write(tmp_path, [7], [[8]])

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ImportOptions(blocks=1))

    one = read_recording(tmp_path / "out" / "shl2018-user1" / "frame00007-1.parquet")
    assert (one.scene, one.phone_model, one.position) == ("Subway", "HUAWEI Mate 9", "hips")
    assert one.start_ns == EPOCH_NS + 6 * MINUTE_NS
    for stem, (sensor, axes) in STEMS.items():
        if sensor:
            expected = np.stack([value(f"{stem}_{axis}", 0) for axis in axes], axis=1)
            np.testing.assert_allclose(one.samples[sensor].values, expected, rtol=1e-6)
    np.testing.assert_allclose(one.samples["pressure"].values[:, 0], value("Pressure", 0), rtol=1e-6)
    np.testing.assert_array_equal(np.diff(one.samples["pressure"].time_ns), 10_000_000)
    assert report.samples == 6 * FRAME
    assert report.minutes == pytest.approx({"Subway": 59.99 / 60})


def test_frames_are_put_in_order_and_neighbours_joined(tmp_path: Path) -> None:
    # Line 1 is the third minute, line 2 the first, line 3 the second, line 4 the fifth.
    write_acc(tmp_path, [3, 1, 2, 5], [[2], [2], [2], [2]])

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)

    found = recordings(tmp_path / "out")
    assert list(found) == ["frame00001-1", "frame00005-1"]
    values = found["frame00001-1"].samples["accelerometer"].values[:, 0]
    assert values[::FRAME].tolist() == [1, 2, 0]
    assert found["frame00001-1"].end_ns - found["frame00001-1"].start_ns == 3 * MINUTE_NS - 10_000_000
    assert found["frame00005-1"].start_ns == EPOCH_NS + 4 * MINUTE_NS
    assert report.sessions == 2


def test_a_change_of_scene_cuts(tmp_path: Path) -> None:
    write_acc(tmp_path, [1, 2], [[1, 2], [2, 2, 0, 5]])

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)

    found = recordings(tmp_path / "out")
    assert {name: (one.scene, one.size) for name, one in found.items()} == {
        "frame00001-1": ("Still", 3000),
        "frame00001-2": ("Walk", 6000),
        "frame00001-4": ("Car", 1500),
    }
    walk: Samples = found["frame00001-2"].samples["accelerometer"]
    assert walk.time_ns[0] == EPOCH_NS + 30 * 10**9
    np.testing.assert_allclose(walk.values[[0, 3000], 0], [value("Acc_x", 0)[3000], value("Acc_x", 1)[0]], rtol=1e-6)
    assert report.notes == {"samples without a label left out": 1500}


def test_labels_become_scenes(tmp_path: Path) -> None:
    write_acc(tmp_path, [1], [[1, 2, 3, 4, 5, 6, 7, 8]])

    import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)

    scenes = [recordings(tmp_path / "out")[f"frame00001-{number}"].scene for number in range(1, 9)]
    assert scenes == ["Still", "Walk", "Run", "Bike", "Car", "Bus", "Train", "Subway"]


def test_blocks_of_time_stand_in_for_subjects(tmp_path: Path) -> None:
    write_acc(tmp_path, [4, 2, 3, 1], [[1]] * 4)
    options = ImportOptions(sensors=("accelerometer",), blocks=2)

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=options)

    assert report.subjects == ("shl2018-user1-block01", "shl2018-user1-block02")
    by_subject = {one.subject_id: one for one in recordings(tmp_path / "out").values()}
    assert by_subject["shl2018-user1-block01"].samples["accelerometer"].values[::FRAME, 0].tolist() == [3, 1]
    assert by_subject["shl2018-user1-block02"].samples["accelerometer"].values[::FRAME, 0].tolist() == [2, 0]


def test_a_bad_channel_line_costs_its_sensor_that_minute(tmp_path: Path) -> None:
    folder = write(tmp_path, [1, 2], [[3], [3]])
    replace_line(folder / "Gyr_y.txt", 1, "1.0 2.0")
    replace_line(folder / "Mag_x.txt", 2, " ".join(["1.0", "oops"] * 3000))
    replace_line(folder / "Pressure.txt", 2, " ".join(["NaN", *["1.5"] * 5998, "inf"]))

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ImportOptions(blocks=1))

    assert [(one.file, one.row) for one in report.refused] == [("Gyr_y.txt", 1), ("Mag_x.txt", 2), ("Pressure.txt", 2)]
    reasons = [one.reason for one in report.refused]
    assert reasons[0] == "2 values; a frame has 6000"
    assert "oops" in reasons[1]
    assert reasons[2] == "2 values are no finite number"
    samples = recordings(tmp_path / "out")["frame00001-1"].samples
    assert {name: len(one.time_ns) for name, one in samples.items()} == {
        "accelerometer": 2 * FRAME,
        "gyroscope": FRAME,
        "magnetometer": FRAME,
        "linear_acceleration": 2 * FRAME,
        "gravity": 2 * FRAME,
        "pressure": 2 * FRAME - 2,
    }
    assert samples["gyroscope"].time_ns[0] == EPOCH_NS + MINUTE_NS
    assert samples["magnetometer"].time_ns[0] == EPOCH_NS


def test_a_bad_label_line_is_refused(tmp_path: Path) -> None:
    folder = write_acc(tmp_path, [1, 2, 3], [[1], [1], [1, 11, 1, 1]])
    replace_line(folder / "Label.txt", 2, "1 1 1")

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)

    assert [(one.file, one.row, one.reason) for one in report.refused] == [
        ("Label.txt", 2, "3 values; a frame has 6000"),
        ("Label.txt", 3, "1500 labels are none of 0 to 8, such as 11"),
    ]
    assert report.samples == 2 * FRAME - 1500
    assert report.notes == {"samples without a label left out": FRAME + 1500}


def test_a_missing_sensor_is_said_and_a_missing_axis_is_an_error(tmp_path: Path) -> None:
    folder = write_acc(tmp_path, [1], [[1]])
    options = ImportOptions(sensors=("accelerometer", "pressure"))

    report = import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=options)

    assert [(one.file, one.row) for one in report.refused] == [("Pressure.txt", 0)]
    (folder / "Acc_y.txt").unlink()
    with pytest.raises(ImporterError, match=r"looked for Acc_y\.txt, found Acc_x\.txt, Acc_z\.txt, Label\.txt"):
        import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train_order.txt", "1\n1\n", r"train_order\.txt: it must have 2 different whole numbers from 1 on"),
        ("train_order.txt", "1\n", r"it must have 2 different"),
        ("train_order.txt", "0\n1\n", r"it must have 2 different"),
        ("train_order.txt", "1.5\n1\n", r"it must have 2 different"),
        ("train_order.txt", "nan\n1\n", r"it must have 2 different"),
        ("train_order.txt", "one\ntwo\n", r"train_order\.txt: not a list of numbers"),
        ("Acc_z.txt", "1 2 3\n", r"Acc_z\.txt: 1 frames, but Label\.txt has 2"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write_acc(tmp_path, [1, 2], [[1], [1]])
    (folder / name).write_text(text, encoding="ascii")

    with pytest.raises(ImporterError, match=message):
        import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)


def test_order_must_be_there(tmp_path: Path) -> None:
    folder = write_acc(tmp_path, [1], [[1]])
    (folder / "train_order.txt").unlink()

    with pytest.raises(ImporterError, match=r"looked for one \*_order\.txt"):
        import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)


def test_train_and_test_side_by_side_must_be_named(tmp_path: Path) -> None:
    write_acc(tmp_path, [1], [[1]])
    write_acc(tmp_path / "moved", [1], [[1]]).rename(tmp_path / "test")

    with pytest.raises(ImporterError, match="several folders look like SHL-2018's train folder: test, train"):
        import_dataset("shl2018", tmp_path, tmp_path / "out", cohort="source", options=ACC_ONLY)
