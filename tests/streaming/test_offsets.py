from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.offsets import Account, Offsets, Outcome, TopicPartition, chain_problems, parse_account

P = TopicPartition(topic="sensor.batches", partition=3)
READ = st.sampled_from([Outcome.BATCH, Outcome.REPEAT, Outcome.DEAD_LETTER])


@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(1, 4), READ), max_size=60),
    st.lists(st.integers(0, 250), max_size=6),
)
def test_whatever_is_settled_when_every_offset_counts_once(
    start: int, steps: list[tuple[int, Outcome]], settles: list[int]
) -> None:
    """Against a plain list; gaps are absent, and commits may settle any number of offsets, or none."""
    offsets, plain, at = Offsets(start), [], start - 1
    for step, outcome in steps:
        at += step
        plain += [Outcome.ABSENT] * (step - 1) + [outcome]
        offsets.note(at, outcome)
    settled = start
    for to in sorted(min(max(s, start), at + 1) for s in [*settles, at + 1]):
        expected = Counter(outcome.value for outcome in plain[settled - start : to - start])
        assert offsets.counts(to) == dict(expected)
        offsets.settle(to)
        settled = to
    assert offsets.counts(at + 1) == {}


def test_counting_twice_before_it_is_settled_says_the_same() -> None:
    """A commit that failed is tried again."""
    offsets = Offsets(0)
    offsets.note(0, Outcome.BATCH)
    assert offsets.counts(1) == offsets.counts(1) == {"batches": 1}


@given(
    records=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(Outcome), st.integers(0, 2)), max_size=30),
    settled=st.lists(st.integers(0, 90), max_size=4),
)
def test_the_leader_of_an_offset_is_that_of_the_very_record_before_it(
    records: list[tuple[int, Outcome, int]], settled: list[int]
) -> None:
    """Of a gap nothing is known: a leader that was would say too little, and pass for a log that lost its end."""
    offsets, at, leaders = Offsets(0, 7), 0, {-1: 7}
    for step, outcome, epoch in records:
        at += step
        offsets.note(at - 1, outcome, epoch)
        leaders[at - 1] = epoch
    for to in [0, *sorted(to for to in settled if to <= at)]:
        offsets.settle(to)
        assert [offsets.epoch_before(after) for after in range(to, at + 1)] == [
            leaders.get(after - 1) for after in range(to, at + 1)
        ]


def test_a_clean_stream_takes_no_memory() -> None:
    offsets = Offsets(0)
    for offset in range(10_000):
        offsets.note(offset, Outcome.BATCH)
    assert len(offsets._runs) == 1


def test_an_account_is_read_as_it_was_written() -> None:
    account = Account(commit=2, from_offset=5, to_offset=9, read_to=11, batches=3, repeats=1, windows=7, rows_before=40)
    assert parse_account(account.record(P)) == (P, account)
    with pytest.raises(ValueError, match="no account"):
        parse_account({"topic": "t"})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=8))
def test_commits_that_follow_one_another_are_a_chain(steps: list[tuple[int, int, int]]) -> None:
    chain, at, rows = [], 0, 0
    for number, (settled, ahead, windows) in enumerate(steps, start=1):
        account = Account(
            commit=number, from_offset=at, to_offset=at + settled, read_to=at + settled + ahead, batches=settled,
            windows=windows, rows_before=rows,
        )  # fmt: skip
        chain.append((number, account))
        at, rows = at + settled, rows + windows
    assert chain_problems(P, chain, whole=True) == []
    for start in range(len(chain)):
        assert chain_problems(P, chain[start:], whole=False) == []
        assert bool(chain_problems(P, chain[start:], whole=True)) == (start > 0), (
            "a log that is whole starts at nothing"
        )
    for missing in range(1, len(chain) - 1):
        assert chain_problems(P, chain[:missing] + chain[missing + 1 :], whole=False)
