"""Whether a partition's log is still the one that the lake has read. Pure.

The lake knows a record by its offset. A topic that was deleted and made anew begins at offset 0 again, and so its records would pass
for ones that were read long ago; so would those of another cluster, or those that come after a log has lost its end (an unclean
election of a leader, a broker's disk restored from a backup). Three things tell:

* Kafka gives each topic that is made an id of its own. The table keeps 63 bits of it beside the offset.
* A log that is still the same never ends before the offset that was read.

* Each leader of a partition writes its number, the leader epoch, into the records, and Kafka knows where each one's end. The table keeps
  that of the last record before its offset; the client asks for it when it seeks there (KIP-320), and begins before if the log is another.

All are asked; the first cannot see a lost end, the second neither a new topic nor a log that has grown longer since than it was.
"""

from __future__ import annotations

from uuid import UUID

from streaming.errors import LogReplaced
from streaming.offsets import TopicPartition

_BITS = 63
_WHAT_TO_DO = (
    "Its offsets no longer mean what the lake has noted, so nothing more of it is read; what is in the lake stays. Fill another lake "
    "([lake] uri), or give the new topic a name of its own ([kafka] batches_topic, labels_topic)."
)
_OR_ACCEPT = (
    "Or pass over what takes the places of what was lost, and go on: sensorloop lake accept {0.topic} {0.partition}."
)


def short(topic_id: UUID) -> int:
    """What the table keeps of Kafka's id of a topic: its lowest 63 bits, which a Delta transaction's version has room for."""
    return topic_id.int & ((1 << _BITS) - 1)


def require_same_topic(partition: TopicPartition, *, noted: int | None, found: int | None) -> None:
    """See that the topic is the one that the lake was filled from.

    Args:
        partition: of the topic.
        noted: what the table has of its id; None: nothing yet.
        found: what Kafka says; None: it does not say (a broker older than 2.8).

    Raises:
        LogReplaced: it is another one.
    """
    if noted is not None and found is not None and noted != found:
        msg = (
            f"{partition}: the topic was deleted and made anew since the lake read it, or is another cluster's (its id is another). "
            f"{_WHAT_TO_DO} If a mirror keeps every record at its offset, set [ingest] accept_other_topic = true for one start."
        )
        raise LogReplaced(msg)


def require_whole_log(partition: TopicPartition, *, read_to: int, end: int) -> None:
    """See that the log has not become shorter than what was read of it.

    Args:
        partition: whose log.
        read_to: one past the newest offset that was read, or that the table says was read.
        end: where Kafka says that the log ends.

    Raises:
        LogReplaced: it ends before.
    """
    if end < read_to:
        msg = (
            f"{partition} ends at offset {end}, and was read up to {read_to}: the topic was deleted and made anew, or has lost its end. "
            f"{_WHAT_TO_DO} {_OR_ACCEPT.format(partition)}"
        )
        raise LogReplaced(msg, ended=end)


def require_no_return(partition: TopicPartition, *, read_to: int, came: int) -> None:
    """See that Kafka does not begin anew: asked for an offset that is past the end, its client goes back to the oldest record.

    Args:
        partition: what was read.
        read_to: one past the newest offset that was read; we asked for that one.
        came: the offset of the record that came.

    Raises:
        LogReplaced: it came from before that.
    """
    if came < read_to:
        msg = (
            f"{partition}: asked for offset {read_to}, Kafka has begun again at {came}: the topic was deleted and made anew, or has lost "
            f"its end. {_WHAT_TO_DO} {_OR_ACCEPT.format(partition)}"
        )
        raise LogReplaced(msg, ended=came)


def require_not_refused(partition: TopicPartition, *, refused: int | None) -> None:
    """See that nobody has found the log replaced: when it has grown again, it cannot be seen any more.

    Args:
        partition: whose log.
        refused: from where on records were gone, at the earliest, as the table has it; None: it was not refused.

    Raises:
        LogReplaced: it was, and nobody has accepted that since.
    """
    if refused is not None:
        msg = (
            f"{partition} was found without records that had been read of it, from offset {refused} on or later: the topic was deleted "
            f"and made anew, or has lost its end. {_WHAT_TO_DO} {_OR_ACCEPT.format(partition)}"
        )
        raise LogReplaced(msg)
