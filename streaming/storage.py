"""Where the files of a table are: a folder of this machine, or an S3-compatible store.

Either way a file is there as a whole or not at all for whoever reads the table: a name is new, and no version has it before
the file is flushed. In a folder that takes an fsync of the file and of the folders that lead to it; a store shows an object only
once its upload is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from streaming.errors import LakeError, SettingsError, Unwritable
from streaming.secret import reveal
from streaming.settings import LakeSettings

_UNREADABLE = re.compile(r"[*?\[\]]|%[0-9A-Fa-f]{2}")

Lake = LakeSettings | str
"""A lake: its settings, or just the URI where there is nothing else to say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of a table."""

    path: str
    """Relative to the table."""
    size: int
    modified: datetime


class Storage:
    """The files of one table, by their path relative to it.

    Args:
        lake: where the lake is.
        table: the table's name.

    Raises:
        LakeError: the folder is one that could not be read again.
        SettingsError: the URI is of no known kind, or a secret is not where the settings say.
    """

    def __init__(self, lake: Lake, table: str) -> None:
        settings = LakeSettings(uri=lake) if isinstance(lake, str) else lake
        self.uri = f"{settings.uri.rstrip('/')}/{table}"
        scheme = urlsplit(settings.uri).scheme if "://" in settings.uri else ""
        if scheme not in {"", "s3"}:
            msg = f"[lake] uri = {settings.uri}: a folder or s3://bucket/prefix"
            raise SettingsError(msg)
        self.local = not scheme
        if self.local and _UNREADABLE.search(settings.uri):  # before anything is written that could not be read again
            msg = (
                f"The lake cannot be in {settings.uri}: its path has one of * ? [ ] or a % with two hexadecimal digits, which readers of "
                "Parquet take for patterns and codes. Set [lake] uri (or SENSORLOOP_HOME) to another folder."
            )
            raise LakeError(msg)
        self.options = {} if self.local else _delta_options(settings)
        self._files = pafs.LocalFileSystem() if self.local else _s3(settings)
        self._root = self.uri.removeprefix("s3://") if not self.local else str(Path(self.uri).absolute())

    def write(self, path: str, fill: Callable[[IO[bytes]], None]) -> StoredFile:
        """Write a new file and return when it would survive a power cut.

        Raises:
            Unwritable: it cannot be written; what there is of it is named by no version.
        """
        try:
            if self.local:
                self._write_local(Path(self._root, path), fill)
            else:
                with self._files.open_output_stream(self._at(path)) as sink:
                    fill(sink)
            return self._described(self._files.get_file_info(self._at(path)))
        except OSError as error:
            msg = (
                f"Cannot write Parquet files below {self.uri}: {plain(error)}. Nothing was published; "
                "free space or fix access."
            )
            raise Unwritable(msg) from error

    def flush(self, path: str) -> None:
        """Return when a file that another library wrote would survive a power cut. A store's objects do.

        Raises:
            LakeError: the disk says no.
        """
        if self.local:
            file = Path(self._root, path)
            try:
                _sync([file, file.parent])
            except OSError as error:
                msg = f"{file} cannot be flushed to disk: {error}. It may be gone after a power cut; start again."
                raise LakeError(msg) from error

    @contextmanager
    def open(self, path: str) -> Iterator[Any]:
        """A file to read at any place of it."""
        with self._files.open_input_file(self._at(path)) as file:
            yield file

    def read(self, path: str) -> bytes:
        """All of a small file."""
        with self.open(path) as file:
            return bytes(file.read())

    def files(self) -> list[StoredFile]:
        """Every file of the table, its log included, by path.

        Raises:
            LakeError: they cannot be listed.
        """
        try:
            found = self._files.get_file_info(pafs.FileSelector(self._root, allow_not_found=True, recursive=True))
        except OSError as error:
            msg = f"The files of {self.uri} cannot be listed: {plain(error)}"
            raise LakeError(msg) from error
        described = [self._described(info) for info in found if info.type == pafs.FileType.File]
        return sorted(described, key=lambda file: file.path)

    def delete(self, path: str) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            self._files.delete_file(self._at(path))
        except FileNotFoundError:
            return
        except OSError as error:
            msg = f"{self.uri}/{path} cannot be deleted: {plain(error)}"
            raise LakeError(msg) from error

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _described(self, info: Any) -> StoredFile:
        path = str(info.path).removeprefix(self._root).lstrip("/")
        return StoredFile(path=path, size=int(info.size), modified=info.mtime.astimezone(UTC))

    def _write_local(self, path: Path, fill: Callable[[IO[bytes]], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        _sync([path.parent, Path(self._root)])


def plain(error: BaseException) -> str:
    """An error of a storage library in one line: they come with colours, stacks and whole XML pages."""
    lines = [line.strip("\x1b[0m31↳ \t") for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("<")]
    return kept[0] if len(kept) == 1 else " … ".join(dict.fromkeys([kept[0], kept[-1]])) if kept else repr(error)


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _credentials(settings: LakeSettings) -> tuple[str, str, str]:
    secret = reveal(settings.s3_secret_access_key, setting="[lake] s3_secret_access_key")
    token = reveal(settings.s3_session_token, setting="[lake] s3_session_token")
    if bool(settings.s3_access_key_id) != bool(secret):
        msg = "[lake] s3_access_key_id and s3_secret_access_key belong together: set both, or neither (AWS_… variables, roles)"
        raise SettingsError(msg)
    return settings.s3_access_key_id, secret, token


def _delta_options(settings: LakeSettings) -> dict[str, str]:
    key, secret, token = _credentials(settings)
    options = {
        "AWS_REGION": settings.s3_region,
        "AWS_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_SESSION_TOKEN": token,
        # Of two commits of one version the store itself must refuse the second; without this it is whoever comes last.
        "conditional_put": "etag",
        "AWS_ALLOW_HTTP": "true" if settings.s3_endpoint.startswith("http://") else "",
    }
    return {name: value for name, value in options.items() if value}


def _s3(settings: LakeSettings) -> Any:
    key, secret, token = _credentials(settings)
    endpoint = urlsplit(settings.s3_endpoint)
    options = {
        "region": settings.s3_region,
        "endpoint_override": endpoint.netloc,
        "scheme": endpoint.scheme,
        "access_key": key,
        "secret_key": secret,
        "session_token": token,
    }
    return pafs.S3FileSystem(**{name: value for name, value in options.items() if value})
