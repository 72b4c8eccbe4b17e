"""What a consumer of a benchmark need not do, done by nobody: it is alone in its group and is never paused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from streaming.client import Membership
from streaming.offsets import TopicPartition


class Idle:
    """Everything of :class:`streaming.client.Source` but ``poll``."""

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        """Nothing."""

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Not known."""
        return {}

    def known_ends(self) -> Mapping[TopicPartition, int]:
        """Not known."""
        return {}

    def position(self, partition: TopicPartition) -> int | None:  # noqa: ARG002 - the seam's
        """Not known."""
        return None

    def topic_id(self, topic: str) -> int | None:  # noqa: ARG002 - the seam's
        """Not known."""
        return None

    def spare(self) -> bool:
        """Never."""
        return False

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Nothing."""

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Nothing."""

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing."""

    def flush_hints(self) -> None:
        """Nothing."""

    def confirm(self, offsets: Mapping[TopicPartition, int]) -> Membership:
        """Always ours."""
        del offsets
        return Membership.OWNER

    def close(self) -> None:
        """Nothing."""
