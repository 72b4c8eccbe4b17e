"""Damaged batches, from the decoder to the windows: each is a batch or is refused with a reason, and costs no more than its bytes."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import sensor_batch_pb2 as pb
from streaming.sensors import SENSORS
from streaming.wire import Reason

from .poison import MUTATIONS, Examiner, claiming, mutated, valid_batches

POOL = valid_batches()


def test_whole_batches_are_taken() -> None:
    examiner = Examiner()
    for value in POOL:
        examiner.examine(value)
    examiner.finish()
    assert examiner.outcomes["batch"] == len(POOL)
    assert examiner.outcomes["windows"] > 100


def test_twenty_thousand_damaged_batches_are_taken_or_refused() -> None:
    examiner = Examiner()
    for seed in range(20_000):
        try:
            examiner.examine(mutated(seed, POOL))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    examiner.finish()
    refusals = {reason for reason in Reason if examiner.outcomes[reason]}
    assert refusals == set(Reason) - {Reason.BAD_INTERVAL}, "every reason there is for a batch was met"
    assert examiner.outcomes["batch"] > 1_000, "and some went through to the windows"
    assert examiner.outcomes["windows"] > 1_000


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 2**64)), min_size=1, max_size=30))
def test_damaged_batches_one_after_the_other(damages: list[tuple[object, int]]) -> None:
    """In one session's company: what one leaves behind must not be another one's undoing."""
    examiner = Examiner()
    for mutation, seed in damages:
        examiner.examine(mutation(random.Random(seed), POOL))  # type: ignore[operator]
    examiner.finish()


def test_claims_of_billions_allocate_next_to_nothing() -> None:
    examiner, rng = Examiner(), random.Random(0)
    values = [claiming(rng, POOL) for _ in range(500)]
    assert max(map(len, values)) < 200
    examiner.examine(values[0])  # what is imported or cached at first
    tracemalloc.start()
    try:
        for value in values:
            examiner.examine(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000
    assert examiner.outcomes["batch"] == 0


def test_a_batch_that_spans_days_is_refused_before_its_windows_are_made() -> None:
    """80 kB of one sample each 2.5 s would be 20,000 windows, a gigabyte of them."""
    message = pb.SensorBatch(device_id="d", session_id="s", subject_id="p", end_of_session=True)
    message.blocks.add(
        sensor="pressure",
        axes=SENSORS["pressure"].axes,
        start_ns=10**18,
        period_ns=2_500_000_000,
        values=bytes(4 * 20_000),
    )
    examiner = Examiner()
    examiner.finish()  # what is imported at first
    tracemalloc.start()
    try:
        examiner.examine(message.SerializeToString())
        examiner.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert examiner.outcomes == {Reason.OVERSIZED: 1, "windows": 0}
