"""What all formats have in common, tried on the smallest of them."""

import hashlib
from pathlib import Path

import pytest

from streaming.errors import ImporterError
from streaming.importers import FORMATS, ImportOptions, import_dataset
from streaming.recording import Recording, scan

HEADER = (
    ",gravity.x,gravity.y,gravity.z,rotationRate.x,rotationRate.y,rotationRate.z,"
    "userAcceleration.x,userAcceleration.y,userAcceleration.z"
)
TRIALS = ("dws_1", "dws_2", "ups_3", "sit_5", "std_6", "wlk_7", "wlk_8", "jog_9")
EXPECTED = ["hapt", "motionsense", "qrowd", "shl2018", "tmd"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "A_DeviceMotion_data"
    for trial in TRIALS:
        for subject in range(1, 6):
            path = folder / trial / f"sub_{subject}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{HEADER}\n" + "0,0,0,-1,1,2,3,0,0,0\n" * (10 + subject), encoding="ascii")
    return tmp_path / "data"


def digests(dest: Path) -> dict[str, str]:
    return {
        path.relative_to(dest).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dest.rglob("*.parquet"))
    }


def test_every_format_says_where_to_get_it_and_what_it_does() -> None:
    assert sorted(FORMATS) == EXPECTED
    for name, one in FORMATS.items():
        assert one.name == name
        assert "Layout:" in one.summary
        assert "m/s²" in one.summary or "9.80665" in one.summary or "Android's units" in one.summary


def test_the_same_input_gives_the_same_bytes_again(source: Path, tmp_path: Path) -> None:
    for dest in ("one", "two", "two"):
        import_dataset("motionsense", source, tmp_path / dest, cohort="source")

    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == len(TRIALS) * 5


@pytest.mark.parametrize("level", [".", "A_DeviceMotion_data", ".."])
def test_the_folder_itself_or_one_above(source: Path, tmp_path: Path, level: str) -> None:
    report = import_dataset("motionsense", (source / level).resolve(), tmp_path / "out", cohort="source")

    assert report.written == len(TRIALS) * 5


def test_a_part_has_the_same_files_as_the_whole(source: Path, tmp_path: Path) -> None:
    import_dataset("motionsense", source, tmp_path / "all", cohort="source")
    options = ImportOptions(every_subject=2, limit=3)

    report = import_dataset("motionsense", source, tmp_path / "some", cohort="source", options=options)

    some = digests(tmp_path / "some")
    assert some.items() <= digests(tmp_path / "all").items()
    assert report.subjects == ("motionsense-01", "motionsense-03", "motionsense-05")
    assert sorted(path for path in some if "-01/" in path) == [
        f"motionsense-01/{trial}.parquet" for trial in ("dws_1", "ups_3", "wlk_7")
    ]


def test_only_the_sensors_asked_for(source: Path, tmp_path: Path) -> None:
    options = ImportOptions(sensors=("accelerometer", "gyroscope"))

    import_dataset("motionsense", source, tmp_path / "out", cohort="source", options=options)

    for _, one in scan(tmp_path / "out"):
        assert isinstance(one, Recording)
        assert list(one.samples) == ["accelerometer", "gyroscope"]


def test_progress_counts_the_sessions(source: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    options = ImportOptions(every_subject=5)

    import_dataset(
        "motionsense",
        source,
        tmp_path / "out",
        cohort="source",
        options=options,
        progress=lambda done, total: calls.append((done, total)),
    )

    assert calls == [(done, 8) for done in range(9)]


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match=r"unknown format 'shl'; known: shl2018, .*; did you mean 'shl2018'\?"):
        import_dataset("shl", tmp_path, tmp_path / "out", cohort="source")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImportOptions(every_subject=0), "every_subject must be at least 1, it is 0"),
        (ImportOptions(limit=0), "limit must be at least 1"),
        (ImportOptions(blocks=-1), "blocks must be at least 1"),
        (ImportOptions(sensors=("barometer",)), "unknown sensor 'barometer'; known: accelerometer"),
        (ImportOptions(sensors=("pressure",)), "it has none of the sensors asked for"),
    ],
)
def test_options_are_checked(source: Path, tmp_path: Path, options: ImportOptions, message: str) -> None:
    with pytest.raises(ImporterError, match=message):
        import_dataset("motionsense", source, tmp_path / "out", cohort="source", options=options)


@pytest.mark.parametrize("name", EXPECTED)
def test_another_layout_is_said_with_what_was_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "holiday.jpg").touch()

    with pytest.raises(ImporterError, match=r"looked for .* found holiday\.jpg"):
        import_dataset(name, tmp_path / "data", tmp_path / "out", cohort="source")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXPECTED)
def test_no_such_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImporterError, match=r"nowhere: there is no such folder; unpack"):
        import_dataset(name, tmp_path / "nowhere", tmp_path / "out", cohort="source")
