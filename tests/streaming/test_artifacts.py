"""The broker's jars, from a repository of this machine that speaks HTTP."""

from __future__ import annotations

import hashlib
import runpy
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jgo.constants import MAVEN_CENTRAL_URL

from streaming import artifacts, ports
from streaming.artifacts import Pin, Pins
from streaming.errors import BrokerError, ChecksumError, DownloadError

from .certificates import Authority


class Repository:
    """A Maven repository that can misbehave."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.unavailable: Counter[str] = Counter()
        """How often a path will still be answered with 503."""
        self.cut: set[str] = set()
        """Paths whose connection breaks half way."""
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                repository.asked[path] += 1
                content = repository.files.get(path)
                if repository.unavailable[path] > 0:
                    repository.unavailable[path] -= 1
                    self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                elif content is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                else:
                    self.send_response(HTTPStatus.OK)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2] if path in repository.cut else content)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def sources(self) -> dict[str, str]:
        return {"test": self.address}

    def pin(self, name: str, content: bytes, *, served: bytes | None = None) -> Pin:
        """Serve a file and return its pin; with ``served``, serve that in its place."""
        self.files[path_of(name)] = content if served is None else served
        return Pin(
            coordinate=f"org.example:{name}:1.0", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def path_of(name: str) -> str:
    return f"org/example/{name}/1.0/{name}-1.0.jar"


def pins(*found: Pin) -> Pins:
    return Pins(kafka="4.4.0", artifacts=found)


@pytest.fixture(scope="module")
def server() -> Iterator[Repository]:
    repository = Repository()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "127.0.0.1")
        yield repository
    repository.close()


@pytest.fixture
def repository(server: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(artifacts, "_PAUSE_S", 0.0)
    server.files.clear()
    server.asked.clear()
    server.unavailable.clear()
    server.cut.clear()
    return server


def test_what_is_missing_is_fetched_once(repository: Repository, tmp_path: Path) -> None:
    wanted = pins(repository.pin("a", b"first"), repository.pin("b", b"second" * 1000))
    folder = tmp_path / "new" / "libs"
    paths = artifacts.fetch(wanted, folder, repositories=repository.sources)
    assert [path.read_bytes() for path in paths] == [b"first", b"second" * 1000]
    assert sorted(folder.iterdir()) == paths == [folder / "a-1.0.jar", folder / "b-1.0.jar"]
    repository.asked.clear()
    assert artifacts.fetch(wanted, folder, repositories=repository.sources) == paths
    assert not repository.asked


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=6), spoilt=st.integers(0, 11))
def test_a_folder_never_holds_anything_but_pinned_files(server: Repository, contents: list[bytes], spoilt: int) -> None:
    server.files.clear()
    wanted = [
        server.pin(
            f"file{number}", content, served=content[:-1] + bytes([content[-1] ^ 1]) if number == spoilt else None
        )
        for number, content in enumerate(contents)
    ]
    with tempfile.TemporaryDirectory() as folder:
        if spoilt < len(contents):
            with pytest.raises(ChecksumError, match=f"org.example:file{spoilt}:1.0"):
                artifacts.fetch(pins(*wanted), Path(folder), repositories=server.sources)
        else:
            artifacts.fetch(pins(*wanted), Path(folder), repositories=server.sources)
            assert len(list(Path(folder).iterdir())) == len(wanted)
        by_name = {pin.filename: pin.sha256 for pin in wanted}
        for path in Path(folder).iterdir():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == by_name[path.name]


def test_progress_goes_up_to_the_total(repository: Repository, tmp_path: Path) -> None:
    wanted = pins(*(repository.pin(f"f{number}", bytes(100_000 + number)) for number in range(5)))
    seen: list[tuple[int, int]] = []
    artifacts.fetch(
        wanted, tmp_path, repositories=repository.sources, progress=lambda done, total: seen.append((done, total))
    )
    total = sum(pin.size_bytes for pin in wanted.artifacts)
    assert {total} == {of for _, of in seen}
    assert seen[-1] == (total, total)
    assert all(before[0] <= after[0] for before, after in pairwise(seen))
    assert len(seen) > 20


def test_a_missing_file_is_named_with_what_to_try(repository: Repository, tmp_path: Path) -> None:
    there, gone = repository.pin("there", b"x"), repository.pin("gone", b"y")
    del repository.files[path_of("gone")]
    with pytest.raises(
        DownloadError, match=r"org\.example:gone:1\.0 could not be fetched in 3 attempts: test: "
    ) as caught:
        artifacts.fetch(pins(there, gone), tmp_path, repositories=repository.sources)
    for way_out in (
        repository.address,
        "HTTPS_PROXY",
        "jgo.conf",
        "settings.xml",
        "KAFKA_HOME",
        "KAFKA_BOOTSTRAP_SERVERS",
    ):
        assert way_out in str(caught.value)
    assert "REQUESTS_CA_BUNDLE" not in str(caught.value)
    assert repository.asked[path_of("gone")] == 3
    assert {path.name for path in tmp_path.iterdir()} <= {there.filename}


def test_a_certificate_that_is_not_trusted_says_how_to_trust_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a proxy that signs for others."""
    authority = Authority(tmp_path, "proxy")
    signed = Repository(authority.issue("server"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    try:
        wanted = pins(signed.pin("a", b"x"))
        with pytest.raises(DownloadError, match=r"set REQUESTS_CA_BUNDLE to a PEM file"):
            artifacts.fetch(wanted, tmp_path / "jars", repositories=signed.sources)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
        artifacts.fetch(wanted, tmp_path / "jars", repositories=signed.sources)
    finally:
        signed.close()
    assert [path.name for path in (tmp_path / "jars").glob("*.jar")] == [wanted.artifacts[0].filename]


def test_a_passing_failure_is_overcome(repository: Repository, tmp_path: Path) -> None:
    pin = repository.pin("a", b"first")
    repository.unavailable[path_of("a")] = 2
    (path,) = artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    assert path.read_bytes() == b"first"
    assert repository.asked[path_of("a")] == 3


def test_half_a_file_is_no_file(repository: Repository, tmp_path: Path) -> None:
    pin = repository.pin("a", bytes(100_000))
    repository.cut.add(path_of("a"))
    with pytest.raises(DownloadError, match=r"org\.example:a:1\.0"):
        artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    assert list(tmp_path.iterdir()) == []


def test_the_next_repository_is_asked(repository: Repository, tmp_path: Path) -> None:
    pin = repository.pin("a", b"first")
    nobody = f"http://127.0.0.1:{ports.free_ports(1)[0]}"
    artifacts.fetch(pins(pin), tmp_path / "libs", repositories={"away": nobody, **repository.sources})
    assert repository.asked[path_of("a")] == 1
    with pytest.raises(DownloadError, match=r"away: .*refused"):
        artifacts.fetch(pins(pin), tmp_path / "others", repositories={"away": nobody})


def test_a_wrong_file_is_not_kept(repository: Repository, tmp_path: Path) -> None:
    pin = repository.pin("a", b"first", served=b"<html>Please log in")
    got = hashlib.sha256(b"<html>Please log in").hexdigest()
    with pytest.raises(ChecksumError, match=f"org.example:a:1.0 .*expected {pin.sha256}, got {got}"):
        artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_changed_is_refused_and_left(repository: Repository, tmp_path: Path) -> None:
    pin = repository.pin("a", b"first")
    (path,) = artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    path.write_bytes(b"changed")
    with pytest.raises(ChecksumError, match=f"{path} is not .*expected {pin.sha256}, got [0-9a-f]{{64}}. Delete it"):
        artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    path.unlink()
    artifacts.fetch(pins(pin), tmp_path, repositories=repository.sources)
    assert path.read_bytes() == b"first"


def test_two_may_fetch_at_the_same_time(repository: Repository, tmp_path: Path) -> None:
    wanted = pins(*(repository.pin(f"f{number}", bytes([number]) * 50_000) for number in range(8)))
    errors: list[BaseException] = []

    def one() -> None:
        try:
            artifacts.fetch(wanted, tmp_path, repositories=repository.sources)
        except BaseException as error:  # noqa: BLE001 - it is looked at below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(tmp_path.iterdir())) == 8


def test_an_interruption_stops_all_downloads(repository: Repository, tmp_path: Path) -> None:
    wanted = pins(*(repository.pin(f"f{number}", bytes([number]) * 50_000) for number in range(40)))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifacts.fetch(wanted, tmp_path, repositories=repository.sources, progress=interrupted)
    assert sum(repository.asked.values()) < 40
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"file/libs .*XDG_CACHE_HOME"):
        artifacts.fetch(pins(repository.pin("a", b"x")), tmp_path / "file" / "libs", repositories=repository.sources)


def test_the_cache_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artifacts.cache_folder(pins(), {}) == tmp_path / ".cache" / "sensorloop" / "kafka-4.4.0"
    assert artifacts.cache_folder(pins(), {"XDG_CACHE_HOME": "/big"}) == Path("/big/sensorloop/kafka-4.4.0")


SETTINGS = '<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors>{}</mirrors></settings>'
MIRROR = "<mirror><id>m</id><mirrorOf>{}</mirrorOf><url>http://mirror.example/maven/</url></mirror>"


@pytest.fixture
def jgo_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    path = tmp_path / "jgo.conf"
    monkeypatch.setenv("JGO_CONFIG_FILE", str(path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def write(text: str) -> None:
        path.write_text(text, encoding="utf-8")

    return write


@pytest.mark.usefixtures("jgo_settings")
@pytest.mark.parametrize(
    ("mirror_of", "used"),
    [("central", True), ("*", True), ("external:*", True), ("a, central", True), ("*,!central", False), ("a", False)],
)
def test_a_mirror_in_maven_s_settings_is_used(tmp_path: Path, mirror_of: str, used: bool) -> None:
    settings = tmp_path / "settings.xml"
    settings.write_text(SETTINGS.format(MIRROR.format("other") + MIRROR.format(mirror_of)), encoding="utf-8")
    expected = "http://mirror.example/maven" if used else MAVEN_CENTRAL_URL
    assert artifacts.known_repositories(settings) == {"central": expected}


def test_jgo_s_own_settings_come_first(jgo_settings: Callable[[str], None], tmp_path: Path) -> None:
    settings = tmp_path / "home" / ".m2" / "settings.xml"
    settings.parent.mkdir(parents=True)
    settings.write_text(SETTINGS.format(MIRROR.format("*")), encoding="utf-8")
    assert artifacts.known_repositories() == {"central": "http://mirror.example/maven"}
    jgo_settings("[repositories]\nhouse = http://house.example/maven\n")
    assert list(artifacts.known_repositories().items()) == [
        ("house", "http://house.example/maven"),
        ("central", "http://mirror.example/maven"),
    ]
    jgo_settings("[repositories]\ncentral = http://house.example/maven\n")
    assert artifacts.known_repositories() == {"central": "http://house.example/maven"}


@pytest.mark.usefixtures("jgo_settings")
def test_damaged_maven_settings_are_named(tmp_path: Path) -> None:
    settings = tmp_path / "settings.xml"
    settings.write_text("<settings>", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"settings\.xml, which may name a mirror"):
        artifacts.known_repositories(settings)


def test_the_pins_are_of_one_kafka() -> None:
    found = artifacts.read_pins()
    coordinates = [pin.coordinate.split(":") for pin in found.artifacts]
    assert len({(group, artifact) for group, artifact, _ in coordinates}) == len(coordinates)
    assert len({pin.filename for pin in found.artifacts}) == len(coordinates)
    # A resolver that mixes versions gives a broker that dies at start.
    assert {version for group, _, version in coordinates if group == "org.apache.kafka"} == {found.kafka}
    assert {"kafka_2.13", "kafka-clients", "log4j-core", "log4j-slf4j-impl"} <= {name for _, name, _ in coordinates}


@pytest.mark.parametrize(
    "change", [{"coordinate": "a:b"}, {"coordinate": "a:../b:1"}, {"sha256": "A" * 64}, {"size_bytes": 0}]
)
def test_a_pin_says_all_it_must(change: dict[str, object]) -> None:
    pin = Pin(coordinate="a:b:1", size_bytes=1, sha256="a" * 64)
    with pytest.raises(ValueError, match="group:artifact:version"):
        replace(pin, **change)


@pytest.mark.parametrize("text", [None, "kafka = ", "kafka = '4'", "kafka = '4'\nartifacts = [{coordinate = 'a'}]"])
def test_damaged_pins_are_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "artifacts.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(BrokerError, match=r"artifacts\.toml does not say"):
        artifacts.read_pins(path)


def test_pins_are_written_as_they_are_read(repository: Repository, tmp_path: Path) -> None:
    repository.pin("a", b"first")
    repository.files["org/apache/kafka/kafka_2.13/5.0/kafka_2.13-5.0.jar"] = b"kafka"
    for name, content in repository.files.items():
        (tmp_path / "m2" / name).parent.mkdir(parents=True)
        (tmp_path / "m2" / name).write_bytes(content)
    text = runpy.run_path(str(artifacts.PINS.with_name("pin.py")))["pins"](tmp_path / "m2")
    (tmp_path / "artifacts.toml").write_text(text, encoding="utf-8")
    found = artifacts.read_pins(tmp_path / "artifacts.toml")
    assert found.kafka == "5.0"
    assert [pin.coordinate for pin in found.artifacts] == ["org.apache.kafka:kafka_2.13:5.0", "org.example:a:1.0"]
    paths = artifacts.fetch(found, tmp_path / "libs", repositories=repository.sources)
    assert [path.read_bytes() for path in paths] == [b"kafka", b"first"]
