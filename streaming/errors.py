"""Everything that can go wrong on the way from a phone to the lake.

::

    StreamingError
    ├── SettingsError          a setting is unknown, missing or of the wrong kind
    ├── BatchError             bytes that are no valid batch or label (they go to the dead-letter topic)
    ├── LabelError             labels that cannot be sent as they are
    ├── RecordingError         a file that is no valid recording
    ├── ImporterError          a published data set whose layout is not what was expected
    ├── LakeError              a table that cannot be read or written
    │   ├── NoTable            there is no such table (yet)
    │   ├── Unwritable         its disk is full, read-only or broken: may work later
    │   ├── LostOwnership      another consumer has committed for this partition: stop
    │   └── CommitConflict     another commit to the table came first
    ├── LogReplaced            a topic is no longer the one that the lake was filled from
    ├── OverBudget             one partition needs more memory than allowed
    ├── ClientError            Kafka cannot be reached, or refuses
    │   └── AccessError        it does not let us in, or is not whom we were told to trust
    ├── ServiceError           a process of this machine ended before it was ready, or did not get ready
    └── BrokerError            the local broker cannot be set up or started
        ├── DownloadError
        ├── ChecksumError
        ├── PortTaken
        └── ForeignData        the data folder belongs to another cluster

``retriable`` says whether trying again later, with nothing changed, can help.
"""

from __future__ import annotations

from typing import ClassVar


class StreamingError(Exception):
    """Base of all errors of this package; the message names what to change, and where it happened."""

    retriable: ClassVar[bool] = False


class SettingsError(StreamingError):
    """A setting is unknown, missing or of the wrong kind."""


class BatchError(StreamingError):
    """Bytes that are no valid batch or label. ``reason`` is a stable word for counters and dead letters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LabelError(StreamingError):
    """Labels that cannot be sent as they are; the message has the file's path and row, or the option, and what would do."""


class RecordingError(StreamingError):
    """A file that is no valid recording; the message has the path and, where there is one, the row."""


class ImporterError(StreamingError):
    """A published data set whose layout is not what its importer expects."""


class LakeError(StreamingError):
    """A table that cannot be read or written."""


class NoTable(LakeError):
    """There is no such table: nothing was written to it yet, or the lake is elsewhere."""


class Unwritable(LakeError):
    """Files cannot be written now: the disk is full, read-only or broken. Nothing was published."""

    retriable: ClassVar[bool] = True


class LostOwnership(LakeError):
    """Another consumer has committed for this partition since we last did, or since we found it: are we its owner any more?"""

    def __init__(self, message: str, partition: object = None) -> None:
        super().__init__(message)
        self.partition = partition
        """The :class:`streaming.offsets.TopicPartition`."""


class CommitConflict(LakeError):
    """Another commit to the table came first, and ours does not go with it. Nothing of ours is in the table."""

    retriable: ClassVar[bool] = True


class LogReplaced(StreamingError):
    """A topic was deleted and made anew, or has lost its end: its offsets do not mean what the lake has noted of them any more."""

    def __init__(self, message: str, *, ended: int | None = None) -> None:
        super().__init__(message)
        self.ended = ended
        """From where on records that were read are gone, at the earliest; None: that is noted already, or need not be (a topic's id
        stays another)."""


class OverBudget(StreamingError):
    """The open windows of one partition need more memory than ``[ingest] memory_budget`` allows."""


class ClientError(StreamingError):
    """Kafka cannot be reached, or refuses what was asked."""

    retriable: ClassVar[bool] = True


class AccessError(ClientError):
    """Kafka does not let us in, or shows a certificate that we were not told to trust. No message has a secret."""

    retriable: ClassVar[bool] = False


class ServiceError(StreamingError):
    """A service ended before it was ready, or did not get ready in time; the message has the last lines of its log."""


class BrokerError(StreamingError):
    """The local broker cannot be set up or started."""


class DownloadError(BrokerError):
    """An artifact of the broker could not be fetched."""

    retriable: ClassVar[bool] = True


class ChecksumError(BrokerError):
    """An artifact of the broker is not the file that was pinned."""


class PortTaken(BrokerError):
    """The port the broker should listen on is in use."""


class ForeignData(BrokerError):
    """The data folder was formatted for another cluster."""
