"""Partitions of which nothing comes, and whether Kafka answers at all.

That a poll brings nothing does not say that there is nothing: its broker may be gone. So Kafka is asked where those end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from streaming.errors import ClientError
from streaming.offsets import TopicPartition

ASK_AFTER_S = 1.0
"""How long nothing comes of a partition before Kafka is asked where it ends."""
ASK_AGAIN_S = 10.0
"""How long one that has no leader is not asked of again: the others must not wait for it at each poll."""
FAILED_POLLS = 3
"""In a row: then Kafka does not answer."""
GONE_AFTER_S = 6.0
"""How long Kafka was asked, of whichever partitions, and told nothing: then it does not answer, however many are not asked of yet."""
_ANSWER_MS = 2_000
_ALONE_MS = 500
_ONE_BY_ONE_S = 2.0
"""How long partitions are asked of alone within a poll; the next poll goes on with those that have waited longest."""

Ask = Callable[[Sequence[TopicPartition], int], Mapping[TopicPartition, int]]
"""(partitions, ms to wait) → where each ends.

Raises:
    ClientError: it is not known of all of them.
"""


class Quiet:
    """What is known of the partitions of which nothing comes.

    Args:
        ask: asks Kafka.
        clock: in seconds, from whenever.
    """

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self.answering = True
        """Whether Kafka answers, as far as is known."""
        self.ends: dict[TopicPartition, int] = {}
        """Where partitions end, as far as Kafka was asked."""
        self._ask = ask
        self._clock = clock
        self._heard = clock()
        self._heard_of: dict[TopicPartition, float] = {}
        """When Kafka last told something of a partition."""
        self._ask_at: dict[TopicPartition, float] = {}
        """Those of which nobody could say where they end, and when they are asked of again."""
        self._missed: dict[TopicPartition, float] = {}
        """When a question about one alone was last not answered."""
        self._in_vain_s = 0.0
        """How long Kafka was asked since it last told something; what else took time meanwhile, a commit say, is not Kafka's silence."""
        self._failed = 0

    def failed(self) -> bool:
        """A poll failed; returns whether that is worth a word."""
        self._failed += 1
        if self._failed >= FAILED_POLLS:
            self.answering = False
        return self._failed in {1, FAILED_POLLS}

    def polled(
        self, assigned: Collection[TopicPartition], came: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """A poll ended well.

        Args:
            assigned: partitions that are ours.
            came: those that it brought something of.

        Returns:
            Where the quiet ones end, if they were asked of just now.
        """
        if self._failed >= FAILED_POLLS and not assigned:
            self.answering = True  # nobody else says so where there is nothing to ask about
        self._failed = 0
        now = self._clock()
        if came:
            self._heard, self.answering, self._in_vain_s = now, True, 0.0
            self._heard_of |= dict.fromkeys(came, now)
        quiet = [
            p for p in assigned if now - self._heard_of.get(p, 0.0) >= ASK_AFTER_S and now >= self._ask_at.get(p, 0.0)
        ]
        if not quiet:
            return {}
        try:
            found = dict(self._ask(quiet, _ANSWER_MS))
        except ClientError:
            found = self._each(quiet)
        if not found:
            self._in_vain_s += self._clock() - now
            # Of the few that were asked of, each may lack a leader; but of hundreds it would take minutes to ask of all.
            asked_enough = self._in_vain_s >= GONE_AFTER_S or all(
                self._missed.get(p, 0.0) >= self._heard for p in assigned
            )
            if now - self._heard >= ASK_AFTER_S and asked_enough:
                self.answering = False
                self._ask_at.clear()  # to hear at once that it is back
            return {}
        self._heard, self.answering, self._in_vain_s = self._clock(), True, 0.0
        self._heard_of |= dict.fromkeys(found, self._heard)
        self.ends |= found
        return found

    def _each(self, quiet: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """One after the other, as many as there is time for: one without a leader keeps Kafka from answering for all."""
        found: dict[TopicPartition, int] = {}
        failed = list(quiet) if len(quiet) == 1 else []  # it was alone already
        began = self._clock()
        for partition in sorted(quiet, key=lambda one: self._missed.get(one, 0.0)) if len(quiet) > 1 else ():
            if self._clock() - began >= _ONE_BY_ONE_S:
                break
            try:
                found |= self._ask([partition], _ALONE_MS)
            except ClientError:
                failed.append(partition)
        now = self._clock()
        self._missed |= dict.fromkeys(failed, now)
        if found or now - self._heard < ASK_AGAIN_S:
            self._ask_at |= dict.fromkeys(failed, now + ASK_AGAIN_S)
        return found
