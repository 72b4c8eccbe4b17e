"""Windows as arrays: what every other module of this package works on.

A :class:`WindowSet` comes out of the lake at one version (:mod:`training.lake`), or out of an ``.npz`` file; nothing behind it knows of
either.
A missing sensor is NaN all along, never an error: the spectrogram masks it.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError, MissingScene

UNLABELLED = -1
"""Index of the scene of a window that nobody has labelled."""

_NOT_SAID = -2
"""How a file says that ``labels_version`` is None; -1 says that there was none."""
_TEXTS = ("subjects", "sessions", "devices", "window_ids")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowSet:
    """n windows of c channels and t samples, and what is known about each. Arrays are never written to."""

    signals: NDArray[np.float32]
    """(n, c, t) in the channel's unit; NaN in a gap and where the sensor was absent."""
    channels: tuple[str, ...]
    """Names of the c channels: ``acc_x``, …"""
    rate_hz: float
    """Samples per second."""
    scenes: NDArray[np.int64]
    """(n,) index into ``scene_names``, :data:`UNLABELLED` where nobody said."""
    scene_names: tuple[str, ...]
    """The scenes, in the order of their indices."""
    subjects: NDArray[np.str_]
    """(n,) who carried the phone."""
    sessions: NDArray[np.str_]
    """(n,) session, unique among those of its device."""
    devices: NDArray[np.str_]
    """(n,) the phone."""
    window_ids: NDArray[np.str_]
    """(n,) the lake's ids."""
    start_ns: NDArray[np.int64]
    """(n,) event time of the first sample, ns since the epoch."""
    coverage: NDArray[np.float32]
    """(n,) smallest share of the grid backed by samples, over the sensors that are there at all."""
    version: int | None = None
    """The version of the lake's ``windows`` table that the windows were read at, if they were."""
    labels_version: int | None = None
    """The version of its ``labels`` table, likewise; :data:`streaming.tables.NO_LABELS` if there was none."""
    verified: NDArray[np.bool_] | None = None
    """(n,) where the label is known to be right, having been said by one of ``[data] verified_by``; None: nowhere."""

    def __post_init__(self) -> None:
        if self.signals.ndim != 3 or self.signals.shape[1] != len(self.channels):
            msg = f"Signals must be (windows, {len(self.channels)} channels, samples), not {self.signals.shape}"
            raise DataError(msg)
        for name in self._columns():
            if getattr(self, name).shape != (len(self),):
                msg = f"{name} must be ({len(self)},), one for each window, not {getattr(self, name).shape}"
                raise DataError(msg)
        if len(self) and not UNLABELLED <= self.scenes.min() <= self.scenes.max() < len(self.scene_names):
            msg = f"Scene indices must be {UNLABELLED} or below {len(self.scene_names)}, the number of scene names"
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def said_later(self) -> int | None:
        """``labels_version``, or None where there was none."""
        return None if self.labels_version is None or self.labels_version < 0 else self.labels_version

    def select(self, which: NDArray[Any]) -> WindowSet:
        """These windows only: ``which`` is a mask or indices."""
        return dataclasses.replace(self, **{name: getattr(self, name)[which] for name in ("signals", *self._columns())})

    def _columns(self) -> tuple[str, ...]:
        """What has a value for each window, beside its signals."""
        return ("scenes", "start_ns", "coverage", *_TEXTS, *(() if self.verified is None else ("verified",)))

    def labelled(self) -> WindowSet:
        """The windows that have a scene."""
        return self.select(self.scenes != UNLABELLED)

    def counts(self) -> dict[str, int]:
        """Labelled windows of each scene."""
        counts = np.bincount(self.scenes[self.scenes >= 0], minlength=len(self.scene_names))
        return {name: int(n) for name, n in zip(self.scene_names, counts, strict=True)}

    def with_scenes(self, names: Sequence[str]) -> WindowSet:
        """The same windows with indices into ``names``, say those that a model knows.

        Raises:
            MissingScene: windows are labelled with a scene that is not among ``names``.
        """
        unknown = {name: n for name, n in self.counts().items() if n and name not in names}
        if unknown:
            listed = ", ".join(self.described(name, names) for name in unknown)
            msg = (
                f"Labelled with scenes that are not known: {listed}; known are {', '.join(names)}. Where a name is misspelt, send the "
                "label anew ('sensorloop label send', or --withdraw); or set [data] scenes to leave these windows out."
            )
            raise MissingScene(msg)
        index = np.array(
            [names.index(name) if name in names else UNLABELLED for name in self.scene_names] + [UNLABELLED]
        )
        return dataclasses.replace(self, scenes=index[self.scenes], scene_names=tuple(names))

    def described(self, scene: str, known: Sequence[str]) -> str:
        """A scene of these windows that is not among ``known``, in words: how often, where first, and what may have been meant."""
        here = np.flatnonzero(self.scenes == self.scene_names.index(scene))
        called = {name.lower(): name for name in known}
        near = difflib.get_close_matches(scene.lower(), called, n=1, cutoff=0.7)
        meant = f", perhaps {called[near[0]]}" if near else ""
        return f"{scene} ({len(here)} windows, first in session {self.sessions[here[0]]} of {self.devices[here[0]]}{meant})"

    def with_channels(self, channels: Sequence[str]) -> WindowSet:
        """The same windows with these channels in this order; NaN where a channel is not there."""
        if tuple(channels) == self.channels:
            return self
        signals = np.full((len(self), len(channels), self.signals.shape[2]), np.nan, np.float32)
        for at, channel in enumerate(channels):
            if channel in self.channels:
                signals[:, at] = self.signals[:, self.channels.index(channel)]
        return dataclasses.replace(self, signals=signals, channels=tuple(channels))

    def groups(self) -> NDArray[np.int64]:
        """(n,) who belongs together: windows of one subject, and of one session, have one number.

        A split that keeps these apart keeps overlapping windows on one side, even if a session was ascribed to two people.
        """
        parents: dict[tuple[str, ...], tuple[str, ...]] = {}

        def root(node: tuple[str, ...]) -> tuple[str, ...]:
            while parents.setdefault(node, node) != node:
                node = parents[node]
            return node

        keys = list(zip(self.subjects.tolist(), self.devices.tolist(), self.sessions.tolist(), strict=True))
        for subject, device, session in dict.fromkeys(keys):
            # Sorted, so that the numbers depend on the names only and not on the order of the rows.
            first, second = sorted((root(("subject", subject)), root(("session", device, session))))
            parents[second] = first
        roots = [root(("subject", subject)) for subject, _, _ in keys]
        number = {node: at for at, node in enumerate(sorted(set(roots)))}
        return np.array([number[node] for node in roots], np.int64)

    def session_groups(self) -> NDArray[np.int64]:
        """(n,) a number for each session of each device."""
        keys = list(zip(self.devices.tolist(), self.sessions.tolist(), strict=True))
        number = {key: at for at, key in enumerate(sorted(set(keys)))}
        return np.array([number[key] for key in keys], np.int64)

    def digest(self) -> str:
        """16 hex digits of everything that a result is measured on: signals and how complete they are, labels, people."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.channels, self.scene_names, self.rate_hz, self.signals.shape)).encode())
        for array in (self.signals, self.scenes, self.coverage):
            digest.update(np.ascontiguousarray(array).data)
        for name in _TEXTS:
            # Each text ends with a mark, the last of a column too: or its letters could belong to the next column.
            digest.update("".join(f"{text}\0" for text in getattr(self, name).tolist()).encode())
        return digest.hexdigest()

    @classmethod
    def of(
        cls,
        signals: NDArray[np.float32],
        scenes: NDArray[np.int64],
        subjects: NDArray[np.str_],
        *,
        channels: Sequence[str],
        scene_names: Sequence[str],
        rate_hz: float,
        sessions: NDArray[np.str_] | None = None,
        verified: NDArray[np.bool_] | None = None,
    ) -> WindowSet:
        """Windows that come from no lake: arrays, or a tensor's ``.numpy()``.

        Args:
            signals: (n, c, t) in the channel's unit; NaN where there is no sample.
            scenes: (n,) index into ``scene_names``, :data:`UNLABELLED` where nobody said.
            subjects: (n,) who carried the phone.
            channels: names of the c channels.
            scene_names: names of the scenes.
            rate_hz: samples per second.
            sessions: (n,) which windows were recorded, and labelled, in one go; None: each window by itself.
            verified: (n,) where the label is known to be right; None: nowhere.

        Raises:
            DataError: the shapes do not fit, or samples are infinite.
        """
        if np.isinf(signals).any():
            msg = "Signals hold infinite samples: give NaN where there is no sample"
            raise DataError(msg)
        count = len(signals)
        numbers = np.array([f"{at:08d}" for at in range(count)], np.str_)
        there = ~np.isnan(signals)
        # The sparsest channel that is there at all, as the lake's sensors are counted.
        share = np.where(there.any(2), there.mean(2), np.inf).min(1, initial=np.inf)
        return cls(
            signals=np.asarray(signals, np.float32), channels=tuple(channels), rate_hz=rate_hz,
            scenes=np.asarray(scenes, np.int64), scene_names=tuple(scene_names), subjects=np.asarray(subjects, np.str_),
            sessions=numbers if sessions is None else np.asarray(sessions, np.str_), devices=np.asarray(subjects, np.str_),
            window_ids=numbers, start_ns=np.zeros(count, np.int64),
            coverage=np.where(np.isfinite(share), share, 0.0).astype(np.float32),
            verified=None if verified is None else np.asarray(verified, np.bool_),
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles; whole or not at all."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["version"] = -1 if self.version is None else self.version
        fields["labels_version"] = _NOT_SAID if self.labels_version is None else self.labels_version
        if self.verified is None:
            del fields["verified"]
        try:
            with partial.open("wb") as file:
                np.savez(file, **fields)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> WindowSet:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: it is no such file; the message says what is missing.
        """
        try:
            # Opened here: NumPy leaves a file open that turns out to be no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                # Files from before labels could come later, or be known to be right, do not say which.
                newer = {"labels_version", "verified"}
                known = [f.name for f in dataclasses.fields(cls) if f.name in archive or f.name not in newer]
                fields: dict[str, Any] = {name: archive[name] for name in known}
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            msg = f"{path} holds no windows: {error}"
            raise DataError(msg) from error
        for name in ("channels", "scene_names"):
            fields[name] = tuple(fields[name].tolist())
        version, labels_version = int(fields["version"]), int(fields.get("labels_version", _NOT_SAID))
        fields["version"] = None if version < 0 else version
        fields["labels_version"] = None if labels_version == _NOT_SAID else labels_version
        return cls(**fields | {"rate_hz": float(fields["rate_hz"])})
