"""Compaction and vacuum of the labels that come later."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl

from streaming.lake import labels_version, scan_labels
from streaming.maintenance import compact, vacuum
from streaming.tables import LABELS
from streaming.verify import verify

from .lakes import LATER, LabelWriter, settings


def test_labels_are_merged_and_vacuumed_like_windows(tmp_path: Path) -> None:
    lake = settings(tmp_path, vacuum_retention=timedelta(0))
    writer = LabelWriter(lake)
    version, _, _ = [writer.publish(count) for count in (3, 2, 4)]

    def rows(version: int | None = None) -> pl.DataFrame:
        return scan_labels(lake, labels_version(lake) if version is None else version).sort("kafka_offset").collect()

    before, first = rows(), rows(version)
    done = compact(lake, LABELS)
    assert (done.files_before, done.files_after, done.merged, done.days) == (3, 1, 3, 1)
    assert rows().equals(before)
    assert rows(version).equals(first)
    assert vacuum(lake, LABELS, now=LATER, keep_versions=[version]).deleted == 2
    assert rows().equals(before)
    assert rows(version).equals(first)
    writer.publish(1)
    assert (verify(str(tmp_path), LABELS).problems, rows().height) == ((), 10)
