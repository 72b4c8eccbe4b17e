"""The jars of the local broker: exactly the pinned files, fetched once, checked every time.

No version is resolved here. ``docker/kafka/artifacts.toml`` names every file with its size and SHA-256; a file that is not
the pinned one is never put where the broker would load it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import XML, MavenContext, PythonResolver

from streaming.errors import BrokerError, ChecksumError, DownloadError

PINS = Path(__file__).parent.parent / "docker" / "kafka" / "artifacts.toml"
"""The pins that belong to this version of the code."""

Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes to fetch in all; from several threads, one at a time."""

_CONNECTIONS = 8
_ATTEMPTS = 3
_PAUSE_S = 1.0
_TIMEOUT_S = 30
_COORDINATE = re.compile(r"[\w.-]+:[\w.-]+:[\w.-]+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One file of a Maven repository, and what it must be."""

    coordinate: str
    """``group:artifact:version``; always a jar without classifier."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its SHA-256, 64 lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        if not _COORDINATE.fullmatch(self.coordinate) or not _SHA256.fullmatch(self.sha256) or self.size_bytes <= 0:
            msg = f"'{self.coordinate}' needs the form group:artifact:version, a size in bytes and a SHA-256"
            raise ValueError(msg)

    @property
    def filename(self) -> str:
        """Name of the jar."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """All files of one version of Kafka."""

    kafka: str
    """Kafka's version."""
    artifacts: tuple[Pin, ...]
    """The files of its class path, in order."""


def read_pins(path: Path = PINS) -> Pins:
    """Read the pins.

    Raises:
        BrokerError: the file is missing, or not of the form that ``docker/kafka/pin.py`` writes.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return Pins(
            kafka=content["kafka"],
            artifacts=tuple(
                Pin(coordinate=entry["coordinate"], size_bytes=entry["bytes"], sha256=entry["sha256"])
                for entry in content["artifacts"]
            ),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        msg = f"{path} does not say what the broker consists of: {error!r}. Restore it from the repository."
        raise BrokerError(msg) from error


def cache_folder(pins: Pins, environ: Mapping[str, str] | None = None) -> Path:
    """Where the jars are kept, for all clones of this user: ``$XDG_CACHE_HOME/sensorloop/kafka-<version>``."""
    chosen = (os.environ if environ is None else environ).get("XDG_CACHE_HOME")
    return (Path(chosen) if chosen else Path.home() / ".cache") / "sensorloop" / f"kafka-{pins.kafka}"


def known_repositories(maven_settings: Path | None = None) -> dict[str, str]:
    """Where to fetch from, in this order.

    1. The ``[repositories]`` of jgo's own settings (``~/.config/jgo.conf``, or what ``JGO_CONFIG_FILE`` names).
    2. Unless one of those is called ``central``: Maven Central, or its mirror according to Maven's settings.

    Args:
        maven_settings: Maven's settings; ``~/.m2/settings.xml`` if None.

    Returns:
        Name → address.

    Raises:
        DownloadError: Maven's settings cannot be read.
    """
    found: dict[str, str] = dict(GlobalSettings.load().repositories)
    if "central" not in found:
        found["central"] = _mirror(maven_settings or Path.home() / ".m2" / "settings.xml") or MAVEN_CENTRAL_URL
    return {name: address.rstrip("/") for name, address in found.items()}


def fetch(
    pins: Pins, folder: Path, *, repositories: Mapping[str, str] | None = None, progress: Progress | None = None
) -> list[Path]:
    """Have every pinned file in a folder, fetching what is missing.

    Files are fetched beside the folder's content and renamed into it once their checksum is right, so that neither an
    interruption nor another process doing the same leaves half a jar.

    Args:
        pins: what to have.
        folder: where; made if missing.
        repositories: name → address; :func:`known_repositories` if None.
        progress: told how far the download is.

    Returns:
        The files, in the order of the pins.

    Raises:
        DownloadError: a file could not be fetched from any repository.
        ChecksumError: a file in the folder, or one that was fetched, is not the pinned one.
    """
    missing = []
    for pin in pins.artifacts:
        path = folder / pin.filename
        if not path.exists():
            missing.append(pin)
        elif (found := _sha256(path)) != pin.sha256:
            msg = f"{path} is not the file that was pinned: {_difference(pin, found)}. Delete it; it will be fetched again."
            raise ChecksumError(msg)
    if missing:
        _fetch_all(missing, folder, known_repositories() if repositories is None else repositories, progress)
    return [folder / pin.filename for pin in pins.artifacts]


def _fetch_all(
    missing: Sequence[Pin], folder: Path, repositories: Mapping[str, str], progress: Progress | None
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".part-", dir=folder)
    except OSError as error:
        msg = f"Kafka cannot be kept in {folder} ({error.strerror}). XDG_CACHE_HOME chooses another folder."
        raise DownloadError(msg) from error
    with scratch as part:
        download = _Download(folder, Path(part), repositories, progress, sum(pin.size_bytes for pin in missing))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            try:
                # Largest first: the last connection to finish then has little left to do.
                for _ in pool.map(download.one, sorted(missing, key=lambda pin: -pin.size_bytes)):
                    pass
            except BaseException:
                download.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise


class _Stopped(Exception):
    """Ends a download that nobody waits for any more."""


class _Download:
    """Fetches single files, several at a time, into one folder."""

    def __init__(
        self, folder: Path, part: Path, repositories: Mapping[str, str], progress: Progress | None, total: int
    ) -> None:
        self.stopping = threading.Event()
        self._folder = folder
        self._part = part
        self._repositories = repositories
        self._progress = progress
        self._total = total
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def one(self, pin: Pin) -> None:
        failures: list[str] = []
        for attempt in range(_ATTEMPTS):
            if attempt and self.stopping.wait(_PAUSE_S):
                raise _Stopped
            failures.clear()
            for name, address in self._repositories.items():
                try:
                    path = self._get(pin, name, address, attempt)
                except (RuntimeError, OSError) as error:
                    failures.append(f"{name}: {error}")
                    continue
                if (found := _sha256(path)) != pin.sha256:
                    msg = (
                        f"{pin.coordinate} from the repository '{name}' ({address}) is not the file that was pinned: "
                        f"{_difference(pin, found)}. It was not kept. A proxy or mirror that answers with a page of its "
                        "own does this; see [repositories] in ~/.config/jgo.conf and <mirrors> in ~/.m2/settings.xml."
                    )
                    raise ChecksumError(msg)
                path.replace(self._folder / pin.filename)
                self._report(pin, pin.size_bytes)
                return
        msg = (
            f"{pin.coordinate} could not be fetched in {_ATTEMPTS} attempts: {'; '.join(failures)}. Is there a network? "
            "HTTPS_PROXY, [repositories] in ~/.config/jgo.conf and <mirrors> in ~/.m2/settings.xml are respected; "
            "KAFKA_HOME uses a Kafka that is on this machine, KAFKA_BOOTSTRAP_SERVERS one that runs elsewhere."
        )
        if any("CERTIFICATE_VERIFY_FAILED" in failure for failure in failures):
            msg += (
                " If a proxy here re-signs HTTPS, set REQUESTS_CA_BUNDLE to a PEM file that includes the proxy's CA, often "
                "/etc/ssl/certs/ca-certificates.crt."
            )
        raise DownloadError(msg)

    def _get(self, pin: Pin, name: str, address: str, attempt: int) -> Path:
        done = 0

        @contextmanager
        def follow(_filename: str, _size: int) -> Iterator[Callable[[int], None]]:
            def update(count: int) -> None:
                nonlocal done
                done += count
                if self.stopping.is_set():
                    raise _Stopped
                self._report(pin, done)

            yield update

        # A folder for each attempt: what a broken connection leaves behind must not be taken for the file.
        group, artifact, version = pin.coordinate.split(":")
        context = MavenContext(
            resolver=PythonResolver(progress_callback=follow),
            repo_cache=self._part / f"{name}-{attempt}",
            local_repos=[],
            remote_repos={name: address},
            timeout=_TIMEOUT_S,
        )
        return Path(context.project(group, artifact).at_version(version).artifact().resolve())

    def _report(self, pin: Pin, done: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done[pin.coordinate] = min(done, pin.size_bytes)
                self._progress(sum(self._done.values()), self._total)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(pin: Pin, found: str) -> str:
    return f"SHA-256 expected {pin.sha256}, got {found}"


def _mirror(settings: Path) -> str | None:
    """The address that Maven's settings put in the place of Maven Central, if any."""
    if not settings.exists():
        return None
    try:
        mirrors = XML(settings).elements("mirrors/mirror")
    except (OSError, ParseError) as error:
        msg = f"{settings}, which may name a mirror of Maven Central, cannot be read: {error}"
        raise DownloadError(msg) from error
    for mirror in mirrors:
        of = [token.strip() for token in (mirror.findtext("mirrorOf") or "").split(",")]
        address = (mirror.findtext("url") or "").strip()
        if address and "!central" not in of and {"*", "external:*", "central"}.intersection(of):
            return address
    return None
