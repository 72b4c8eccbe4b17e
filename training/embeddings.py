"""What a network makes of windows, each window fed to it once: the costly part of a rescoring, kept and never done twice.

An embedding is found again by the network's digest, the window's id and the content that the network is fed, so that neither another
model nor a window that was cut anew meets an old one. Scores are not kept: how far a judge is trusted, and how many labels of a scene
are wrong, is found from all labels together, and takes seconds where the forward pass takes minutes.

Batches are always of the same size, the last one filled up: a matrix product's last bits depend on its shape, and what is embedded in
parts must be what is embedded at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.dataset import WindowSet
from training.network import SceneNet, infer, placed
from training.tracking import Progress, no_progress

if TYPE_CHECKING:
    from streaming.lake import Lake

Features = NDArray[np.float32]
BATCH = 64
"""Windows a forward pass: what is filled up of a few new windows must not cost more than they do."""
_COMMIT = 128 * BATCH
"""Windows that are kept with one commit: what is lost when the process dies, and 16 MiB of features."""


class Store(Protocol):
    """Where embeddings are kept."""

    def known(
        self, model: str, window_ids: NDArray[np.str_], contents: NDArray[np.str_]
    ) -> tuple[NDArray[np.bool_], Features]:
        """(n,) which of n windows it has, with this content, and (known, d) their features, in order."""
        ...

    def keep(self, model: str, window_ids: NDArray[np.str_], contents: NDArray[np.str_], features: Features) -> None:
        """Remember m windows' (m, d) features."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedded:
    """Features of n windows."""

    features: Features
    """(n, d)"""
    fresh: int
    """How many of them were fed to the network now; the others were known."""


def features_of(net: SceneNet, windows: WindowSet, where: torch.device | None = None) -> NDArray[np.floating]:
    """(n, d) what the head sees, computed on a device (None: where the network is)."""
    frozen, _ = net.split("head")
    found: NDArray[np.floating] = infer(frozen.eval(), torch.from_numpy(windows.signals), where=where).numpy()
    return found


def contents(signals: NDArray[np.float32]) -> NDArray[np.str_]:
    """(n,) 16 hex digits of each window's signals (n, channels, samples)."""
    rows = np.ascontiguousarray(signals)
    return np.array([hashlib.blake2b(row.data, digest_size=8).hexdigest() for row in rows], "U16")


def embed(
    net: SceneNet,
    model: str,
    windows: WindowSet,
    store: Store,
    *,
    where: torch.device | None = None,
    progress: Progress = no_progress,
) -> Embedded:
    """Features of windows, those that the store knows from there, the others computed and kept as they come.

    Args:
        net: in evaluation mode.
        model: its digest.
        windows: with the network's channels.
        store: where embeddings are kept.
        where: the device to compute on; None: where the network is.
        progress: told after each commit.
    """
    return _embed(net, model, windows.window_ids, windows.signals, store, where=where, progress=progress)


def _embed(
    net: SceneNet,
    model: str,
    window_ids: NDArray[np.str_],
    signals: NDArray[np.float32],
    store: Store,
    *,
    where: torch.device | None,
    progress: Progress,
) -> Embedded:
    digests = contents(signals)
    have, known = store.known(model, window_ids, digests)
    missing = np.flatnonzero(~have)
    features = np.empty((len(window_ids), net.backbone.fc.in_features), np.float32)
    if have.any():
        features[have] = known
    frozen = placed(net.split("head")[0].eval(), where)
    # The next piece's features are computed while the last one's are written.
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for at in range(0, len(missing), _COMMIT):
            rows = missing[at : at + _COMMIT]
            features[rows] = forward(frozen, signals[rows])
            if written is not None:
                written.result()
            written = writer.submit(store.keep, model, window_ids[rows], digests[rows], features[rows])
            progress(at + len(rows), len(missing), "embeddings")
        if written is not None:
            written.result()
    return Embedded(features=features, fresh=len(missing))


@torch.inference_mode()
def forward(frozen: nn.Module, signals: NDArray[np.float32]) -> Features:
    """(n, d) outputs of a module on its device, in batches of one size."""
    where = next(frozen.buffers()).device
    inputs = torch.from_numpy(signals)
    inputs = inputs.pin_memory() if where.type == "cuda" else inputs
    found = []
    for part in torch.split(inputs, BATCH):
        padded = part if len(part) == BATCH else torch.cat([part, part[-1:].expand(BATCH - len(part), -1, -1)])
        found.append(frozen(padded.to(where, non_blocking=True))[: len(part)])
    # One copy back for all of them: each waits for the device.
    together: Features = torch.cat(found).cpu().numpy()
    return together


class LakeStore:
    """The lake's ``embeddings`` table."""

    def __init__(self, lake: Lake) -> None:
        """Of this lake; nothing is read yet."""
        self._lake = lake

    def known(
        self, model: str, window_ids: NDArray[np.str_], contents: NDArray[np.str_]
    ) -> tuple[NDArray[np.bool_], Features]:
        """See :class:`Store`."""
        from streaming.lake import read_embeddings  # noqa: PLC0415  (the lake's libraries are needed here only)

        found = read_embeddings(self._lake, model, window_ids.tolist())
        if found.is_empty():
            return np.zeros(len(window_ids), bool), np.empty((0, 0), np.float32)
        values = found["features"].explode().to_numpy().astype(np.float32, copy=False).reshape(len(found), -1)
        at = {key: row for row, key in enumerate(zip(found["window_id"], found["content"], strict=True))}
        rows = np.array([at.get(key, -1) for key in zip(window_ids.tolist(), contents.tolist(), strict=True)], np.int64)
        return rows >= 0, values[rows[rows >= 0]]

    def keep(self, model: str, window_ids: NDArray[np.str_], contents: NDArray[np.str_], features: Features) -> None:
        """See :class:`Store`."""
        import pyarrow as pa  # noqa: PLC0415

        from streaming.lake import append_embeddings  # noqa: PLC0415
        from streaming.tables import EMBEDDINGS_SCHEMA  # noqa: PLC0415

        n, d = features.shape
        lists = pa.ListArray.from_arrays(np.arange(0, n * d + 1, d, dtype=np.int32), pa.array(features.reshape(-1)))
        columns = [pa.array([model] * n), pa.array(window_ids.tolist()), pa.array(contents.tolist()), lists]
        append_embeddings(self._lake, pa.table(columns, schema=EMBEDDINGS_SCHEMA))


def embed_days(
    net: SceneNet,
    model: str,
    read: Callable[[date], WindowSet],
    days: Sequence[date],
    store: Store,
    *,
    where: torch.device | None = None,
    progress: Progress = no_progress,
) -> tuple[int, int]:
    """Embed the windows of many days, a few thousand in memory (or a day, if it has more) and the next day being read.

    Args:
        net: in evaluation mode.
        model: its digest.
        read: a day's windows.
        days: which.
        store: where embeddings are kept.
        where: the device to compute on; None: where the network is.
        progress: told after each day.

    Returns:
        How many windows there are, and how many of them were fed to the network now.

    Raises:
        ModelError: windows have another rate or length than those that the network has learned from.
    """
    count, fresh, waiting = 0, 0, list[WindowSet]()
    for number, windows in enumerate(_ahead(read, days), start=1):
        net.require_fit(windows)
        waiting.append(windows.with_channels(net.channels))
        # Days with few windows go together: each alone would fill up a batch.
        if number < len(days) and sum(map(len, waiting)) < _COMMIT:
            continue
        ids = np.concatenate([each.window_ids for each in waiting])
        signals = np.concatenate([each.signals for each in waiting])
        waiting.clear()
        done = _embed(net, model, ids, signals, store, where=where, progress=no_progress)
        count, fresh = count + len(ids), fresh + done.fresh
        progress(number, len(days), "days embedded")
    return count, fresh


def _ahead(read: Callable[[date], WindowSet], days: Sequence[date]) -> Iterator[WindowSet]:
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(read, day) for day in days[:1]]
        for at in range(len(days)):
            windows = coming.pop().result()
            coming = [reader.submit(read, day) for day in days[at + 1 : at + 2]]
            yield windows
