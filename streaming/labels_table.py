"""The ``labels`` table, as its writer sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from streaming.label_wire import SceneLabel
from streaming.offsets import Account, TopicPartition
from streaming.publish import Position, Publisher
from streaming.settings import LakeSettings
from streaming.storage import Storage
from streaming.tables import LABELS, LABELS_PARTITION_COLUMN, LABELS_SCHEMA

_DAY_NS = 86_400 * 1_000_000_000


class LabelsTable:
    """The ``labels`` table, as its writer sees it; made if it is not there.

    Args:
        settings: where the lake is.

    Raises:
        LakeError: a table is there with other columns.
    """

    def __init__(self, settings: LakeSettings) -> None:
        self._publisher = Publisher(
            Storage(settings, LABELS), LABELS_SCHEMA, partition_column=LABELS_PARTITION_COLUMN,
            compression_level=settings.compression_level,
        )  # fmt: skip

    @property
    def version(self) -> int:
        """The newest version this writer knows."""
        return self._publisher.table.version

    def position(self, partition: TopicPartition) -> Position:
        """See :meth:`streaming.publish.Publisher.position`."""
        return self._publisher.position(partition)

    def rows(self, partition: TopicPartition) -> int:
        """How many labels of a partition are published, as of the version that :meth:`position` saw."""
        return self._publisher.rows(partition)

    def refuse(self, partition: TopicPartition, ended: int, reason: str) -> None:
        """See :func:`streaming.refusals.note`."""
        self._publisher.refuse(partition, ended, reason)

    def publish(self, labels: pa.Table, accounts: Mapping[TopicPartition, Account]) -> int:
        """See :meth:`streaming.publish.Publisher.publish`."""
        return self._publisher.publish(labels, accounts)


def labels_rows(partition: TopicPartition, labels: Sequence[tuple[int, SceneLabel]], ingested_at: datetime) -> pa.Table:
    """Rows of :data:`streaming.tables.LABELS_SCHEMA`, one for each (offset, label), in the order given."""
    texts = ("device_id", "session_id", "start_ns", "end_ns", "scene", "said_by", "said_ns")
    count = len(labels)
    columns = {name: [getattr(label, name) for _, label in labels] for name in texts}
    columns |= {
        LABELS_PARTITION_COLUMN: [label.said_ns // _DAY_NS for _, label in labels],
        "topic": [partition.topic] * count,
        "kafka_partition": [partition.partition] * count,
        "kafka_offset": [offset for offset, _ in labels],
        "ingested_at": [ingested_at.astimezone(UTC)] * count,
    }
    arrays = []
    for field_ in LABELS_SCHEMA:
        if field_.name == LABELS_PARTITION_COLUMN:
            arrays.append(pa.array(columns[field_.name], pa.int32()).cast(pa.date32()))
        else:
            arrays.append(pa.array(columns[field_.name], field_.type))
    return pa.table(arrays, schema=LABELS_SCHEMA)
