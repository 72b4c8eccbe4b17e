from __future__ import annotations

import random
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.assembler import Assembler, ClosedWindows, SessionKey, SessionMemory
from streaming.wire import SensorBatch

from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch, close_all_idle
from .traffic import gappy_session

Windows = dict[tuple[SessionKey, int], bytes]


def flat(groups: list[ClosedWindows]) -> Windows:
    """Windows by name, as all that is published of them; each exactly once."""
    found: Windows = {}
    for group in groups:
        for i, start in enumerate(group.starts_ns.tolist()):
            name = (group.key, start)
            assert name not in found, "published twice"
            found[name] = b"".join(
                [
                    *(group.signals[s][i].tobytes() + group.fresh[s][i].tobytes() for s in sorted(group.signals)),
                    *(group.coverage[s][i].tobytes() + group.max_gap_ms[s][i].tobytes() for s in sorted(group.signals)),
                    str(group.scenes[i]).encode(),
                    group.samples[i].tobytes(),
                ]
            )
    return found


def run(batches: list[SensorBatch]) -> tuple[list[ClosedWindows], Assembler]:
    assembler = Assembler(SETTINGS, {})
    closed = [group for offset, b in enumerate(batches) for group in assembler.add(b, offset, NOW)]
    return closed, assembler


def session(seconds: int, name: str = "s1") -> list[SensorBatch]:
    return [batch(i, session=name, end=i == seconds - 1) for i in range(seconds)]


def test_a_session_becomes_its_windows() -> None:
    closed, assembler = run(session(6))
    groups = [(int(s) - EPOCH) // SECOND for group in closed for s in group.starts_ns]
    assert groups == [0, 1, 2, 3, 4, 5]
    assert assembler.open_sessions == 0
    assert assembler.needed_offset() is None
    assert sum(int(g.fresh["accelerometer"].sum()) for g in closed) == 6 * 25
    assert {scene for g in closed for scene in g.scenes} == {"Walk"}
    first = closed[0]
    assert first.signals["accelerometer"].shape[1:] == (3, 40)
    grid = np.arange(40) / 20
    np.testing.assert_allclose(first.signals["accelerometer"][0, 1], np.sin(grid + 1), atol=1e-3)
    assert first.coverage["accelerometer"][0] == 1.0
    assert "pressure" not in first.fresh or first.fresh["pressure"].sum() == 0


def test_windows_close_by_event_time_while_the_session_goes_on() -> None:
    assembler = Assembler(SETTINGS, {})
    closed = [
        [int(s - EPOCH) // SECOND for g in assembler.add(batch(i), i, NOW) for s in g.starts_ns] for i in range(8)
    ]
    # Batch i ends just before second i + 1; a window of 2 s closes 3 s of lateness after its end.
    assert closed == [[], [], [], [], [], [0], [1], [2]]


def test_a_repeated_batch_counts_once() -> None:
    batches = session(6)
    again = [*batches[:4], batches[2], batches[0], *batches[4:], batches[5], batches[1]]
    closed, assembler = run(again)
    assert flat(closed) == flat(run(batches)[0])
    assert assembler.counters["duplicate_batches"] == 4


def restarted(closed: list[ClosedWindows]) -> Assembler:
    """The assembler of a new owner, who knows what the table has of one session."""
    last = closed[-1]
    known = SessionMemory(
        next_start_ns=int(last.starts_ns[-1]) + SETTINGS.hop_ns, next_sequence=max(g.next_sequence for g in closed)
    )
    return Assembler(SETTINGS, {last.key: known})


@pytest.mark.parametrize("number", [0, 3, 9])
def test_a_repeat_after_the_end_is_a_duplicate_with_or_without_a_restart(number: int) -> None:
    batches = session(10)
    closed, undisturbed = run(batches)
    for assembler in (undisturbed, restarted(closed)):
        assert not list(assembler.add(batches[number], 10, NOW))
        assert assembler.counters["duplicate_batches"] == 1
        assert assembler.counters["late_samples"] == assembler.counters["out_of_order_batches"] == 0
        assert assembler.open_sessions == 0
        assert assembler.needed_offset() is None


def test_what_a_restart_reads_again_is_not_late() -> None:
    batches = session(10)
    closed, undisturbed = run(batches[:9])
    needed = undisturbed.needed_offset()
    assert needed is not None
    assembler = restarted(closed)
    for at in range(needed, 9):
        closed += assembler.add(batches[at], at, NOW)
    published = assembler.counters["duplicate_batches"]
    assert published == 1, "the batch before the first open window, for its last values"
    closed += assembler.add(batches[1], 9, NOW)
    assert assembler.counters["duplicate_batches"] == published + 1
    closed += assembler.add(batches[9], 10, NOW)
    assert flat(closed) == flat(run(batches)[0])
    assert assembler.counters["late_samples"] == assembler.counters["out_of_order_batches"] == 0


def test_batches_in_any_order_within_the_lateness_give_the_same_windows() -> None:
    batches = session(12)
    swapped = [batches[i ^ 1] for i in range(12)]
    closed, assembler = run(swapped)
    assert flat(closed) == flat(run(batches)[0])
    assert assembler.counters["out_of_order_batches"] == 6


def test_the_end_waits_for_what_comes_before_it() -> None:
    batches = session(4)
    closed, assembler = run([batches[3], batches[0], batches[2]])
    assert not closed
    assert assembler.open_sessions == 1
    closed = list(assembler.add(batches[1], 3, NOW))
    assert flat(closed) == flat(run(batches)[0])


def test_a_late_batch_is_counted_and_published_windows_stay() -> None:
    batches = [batch(i) for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    closed, assembler = run(batches)
    late = list(assembler.add(batch(1), 9, NOW))
    assert assembler.counters["late_samples"] == 25
    assert not set(flat(late)) & set(flat(closed))


def test_hours_offline_cost_nothing_and_lose_nothing() -> None:
    gap = 5 * 3600
    batches = [batch(0), batch(1), *(batch(2 + i, start_ns=EPOCH + (gap + i) * SECOND, end=i == 2) for i in range(3))]
    closed, _ = run(batches)
    starts = sorted((int(s) - EPOCH) // SECOND for g in closed for s in g.starts_ns)
    assert starts == [0, 1, gap, gap + 1, gap + 2]
    assert max(g.signals["accelerometer"].shape[0] for g in closed) <= 3


def test_a_silent_session_is_closed_and_may_come_back() -> None:
    assembler = Assembler(SETTINGS, {})
    closed = list(assembler.add(batch(0), 0, NOW))
    assert not list(assembler.close_idle(NOW + timedelta(seconds=59)))
    closed += assembler.close_idle(NOW + timedelta(seconds=60))
    assert [(int(s) - EPOCH) // SECOND for g in closed for s in g.starts_ns] == [0]
    assert assembler.needed_offset() is None
    for i in range(1, 4):
        closed += assembler.add(batch(i, end=i == 3), i, NOW)
    assert sum(int(g.fresh["accelerometer"].sum()) for g in closed) == 4 * 25
    assert assembler.counters["late_samples"] == 0
    flat(closed)


def test_a_phone_that_repeats_one_batch_does_not_keep_its_session_open() -> None:
    """Its windows would stay open for ever, and with them the partition's offset and its ``valid_through``."""
    assembler = Assembler(SETTINGS, {})
    assembler.add(batch(0), 0, NOW)
    for second in range(60):
        assert not list(assembler.add(batch(0), 1 + second, NOW + timedelta(seconds=second)))
    closed = assembler.close_idle(NOW + SETTINGS.idle_timeout)
    assert sum(int(g.fresh["accelerometer"].sum()) for g in closed) == 25
    assert assembler.needed_offset() is None


def test_an_end_before_any_sample_closes_nothing() -> None:
    """A phone's last batch without samples comes first, and the others never do."""
    assembler = Assembler(SETTINGS, {})
    assert not list(assembler.add(batch(1, samples=0, end=True), 0, NOW))
    assert assembler.needed_offset() == 0
    assert not list(assembler.close_idle(NOW + SETTINGS.idle_timeout))
    assert assembler.needed_offset() is None
    closed = assembler.add(batch(0), 1, NOW)
    assert sum(int(g.fresh["accelerometer"].sum()) for g in closed) == 25


def test_majority_label_and_sparse_windows() -> None:
    closed, assembler = run([batch(0, scene="Walk", samples=5), batch(1, scene="Run", end=True)])
    labels = {(int(s) - EPOCH) // SECOND: scene for g in closed for s, scene in zip(g.starts_ns, g.scenes, strict=True)}
    assert labels == {0: "Run", 1: "Run"}
    assert assembler.counters["sparse_windows"] == 2


@pytest.mark.parametrize("field", ["length", "hop"])
def test_settings_that_cannot_be(field: str) -> None:
    with pytest.raises(ValueError, match="hop"):
        type(SETTINGS)(**{field: timedelta(seconds=3.3)})


@st.composite
def traffic(draw: st.DrawFn) -> list[SensorBatch]:
    """Several sessions, interleaved, with repeats at once and later, short reorderings, hours offline and jumps."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    queues = []
    for s in range(draw(st.integers(1, 3))):
        length, offline, shift = draw(st.integers(1, 15)), draw(st.integers(1, 20)), draw(st.integers(0, 999))
        queue = []
        for i in range(length):
            late_ns = (3600 if i >= offline else 0) * SECOND + shift * 1_000_000
            start = EPOCH + i * SECOND + late_ns
            ends = i == length - 1
            queue.append(batch(i, session=f"s{s}", start_ns=start, samples=rng.choice([25, 25, 25, 8, 1]), end=ends))
        for i in range(length - 1):
            if rng.random() < 0.2:
                queue[i], queue[i + 1] = queue[i + 1], queue[i]
        sent = [b for b in queue for _ in range(rng.choice([1, 1, 1, 1, 2]))]
        for b in rng.sample(
            queue, k=rng.choice([0, 0, 1, min(3, length)])
        ):  # repeats that come later, or after the end
            sent.insert(rng.randint(sent.index(b) + 1, len(sent)), b)
        queues.append(sent)
    merged = []
    while any(queues):
        merged.append(rng.choice([q for q in queues if q]).pop(0))
    return merged


@st.composite
def gappy_traffic(draw: st.DrawFn) -> list[SensorBatch]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    queues = [gappy_session(rng, f"s{number}", rng.randint(40, 200), SETTINGS) for number in range(2)]
    merged = []
    while any(queues):
        merged.append(rng.choice([queue for queue in queues if queue]).pop(0))
    return merged


@settings(max_examples=150, deadline=None)
@given(traffic() | gappy_traffic(), st.lists(st.integers(0, 60), max_size=4), st.sampled_from([1, 7, 64]))
def test_restarts_anywhere_change_nothing(batches: list[SensorBatch], crashes: list[int], together: int) -> None:
    """What a crash keeps is what the table has: the windows, and the offset to read from. That must be enough."""
    undisturbed, never = run(batches)
    undisturbed += close_all_idle(never, NOW + SETTINGS.idle_timeout)
    published: list[ClosedWindows] = []
    offset = 0
    for crash in [*sorted(c for c in crashes if c < len(batches)), len(batches)]:
        memory: dict[SessionKey, SessionMemory] = {}
        for group in published:
            known = memory.get(group.key)
            memory[group.key] = SessionMemory(
                next_start_ns=max(known.next_start_ns if known else 0, int(group.starts_ns[-1]) + SETTINGS.hop_ns),
                next_sequence=max(known.next_sequence if known else 0, group.next_sequence),
            )
        assembler = Assembler(SETTINGS, memory, together=together)
        for at in range(offset, max(crash, offset)):
            published += assembler.add(batches[at], at, NOW)
        published += assembler.flush()  # as a commit does
        needed = assembler.needed_offset()
        offset = max(crash, offset) if needed is None else needed
    # A session whose end was read before a crash but not all before it is closed by the idle time-out.
    published += close_all_idle(assembler, NOW + SETTINGS.idle_timeout)
    assert flat(published) == flat(undisturbed)


@given(traffic())
def test_every_sample_is_fresh_once(batches: list[SensorBatch]) -> None:
    closed, assembler = run(batches)
    sent = {(b.session_id, b.sequence): b.samples for b in batches}
    fresh = sum(int(g.fresh["accelerometer"].sum()) for g in closed)
    assert fresh + assembler.counters["late_samples"] == sum(sent.values())


def test_a_batch_from_before_a_jump_is_late_with_or_without_a_restart() -> None:
    """The jump closes what was before it, also when a restart reads the jump again and not what was before."""
    jumped = [batch(0), batch(2, start_ns=EPOCH + 3600 * SECOND)]
    closed, undisturbed = run(jumped)
    ((key, group),) = [(g.key, g) for g in closed]
    memory = SessionMemory(next_start_ns=int(group.starts_ns[-1]) + SETTINGS.hop_ns, next_sequence=group.next_sequence)
    restarted = Assembler(SETTINGS, {key: memory})
    assert undisturbed.needed_offset() == 1
    assert not list(restarted.add(jumped[1], 1, NOW))
    for assembler in (undisturbed, restarted):
        assert not list(assembler.add(batch(1), 2, NOW))
        assert assembler.counters["late_samples"] == 25
