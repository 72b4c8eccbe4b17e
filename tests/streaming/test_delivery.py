from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.delivery import Delivery, DeliverySettings, Session, deliver, deliver_session, whole_us
from streaming.errors import SettingsError
from streaming.recording import Recording, Samples

NS = 1_000_000_000
START = 1_700_000_000 * NS
CALM = DeliverySettings(repeat_rate=0, reorder_rate=0, offline_rate=0)


def recording(
    seconds: float = 10, *, session: str = "s", device: str = "d", start: int = START, seed: int = 0
) -> Recording:
    rng = np.random.default_rng(seed)
    regular = start + np.arange(int(seconds * 50)) * (NS // 50)
    jittered = np.sort(start + rng.integers(0, int(seconds * NS), int(seconds * 20)))
    return Recording(
        device_id=device, session_id=session, subject_id="p", phone_model="m", position="hips", cohort="c", scene="Walk",
        samples={
            "accelerometer": Samples(regular, rng.normal(size=(len(regular), 3)).astype(np.float32)),
            "pressure": Samples(jittered, rng.normal(size=(len(jittered), 1)).astype(np.float32)),
        },
    )  # fmt: skip


def received(deliveries: list[Delivery]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Samples by sensor in order of time, each batch counted once, as a consumer would."""
    batches = {item.batch.sequence: item.batch for item in deliveries}
    parts = defaultdict(list)
    for _, batch in sorted(batches.items()):
        for block in batch.blocks:
            parts[block.sensor].append((block.times_ns(), block.values))
    return {s: (np.concatenate([t for t, _ in p]), np.concatenate([v for _, v in p])) for s, p in parts.items()}


@settings(max_examples=60)
@given(
    st.floats(0.05, 20),
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([0.1, 1.0, 3.0]),
)
def test_every_sample_is_in_one_batch(
    seconds: float, seed: int, repeat: float, reorder: float, offline: float, length: float
) -> None:
    manners = DeliverySettings(
        repeat_rate=repeat, reorder_rate=reorder, offline_rate=offline, seed=seed, batch=timedelta(seconds=length)
    )
    sent = recording(seconds, seed=seed)
    deliveries = list(deliver_session(sent, manners))
    for sensor, (times, values) in received(deliveries).items():
        np.testing.assert_array_equal(times, whole_us(sent.samples[sensor].time_ns))
        np.testing.assert_array_equal(values, sent.samples[sensor].values)
    firsts = [item.batch for item in deliveries if not item.repeat]
    assert sorted(batch.sequence for batch in firsts) == list(range(len(firsts)))
    assert [batch.sequence for batch in firsts if batch.end_of_session] == [len(firsts) - 1]
    assert [item.due_ns for item in deliveries] == sorted(item.due_ns for item in deliveries)


def test_calm_phones_send_in_order_once() -> None:
    deliveries = list(deliver_session(recording(), CALM))
    assert [item.batch.sequence for item in deliveries] == list(range(10))
    assert deliveries[0].due_ns == START + NS


def test_reordering_is_between_neighbours() -> None:
    manners = DeliverySettings(repeat_rate=0, reorder_rate=1, offline_rate=0)
    sequences = [item.batch.sequence for item in deliver_session(recording(), manners)]
    assert sequences == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]


def test_an_offline_phone_sends_the_rest_late_and_in_order() -> None:
    manners = DeliverySettings(repeat_rate=0, reorder_rate=0, offline_rate=1)
    deliveries = list(deliver_session(recording(60), manners))
    delays = np.array([item.due_ns - START - (item.batch.sequence + 1) * NS for item in deliveries])
    assert (delays[:1] == 0).all()
    assert delays.max() > 60 * NS
    assert [item.batch.sequence for item in deliveries] == list(range(60))


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1.0]), st.sampled_from([1, 20, 300]))
def test_repeats_come_after_their_first_within_the_longest_wait(seed: int, offline: float, longest: int) -> None:
    manners = DeliverySettings(
        repeat_rate=0.5, late_repeat_rate=1, offline_rate=offline, seed=seed, late_repeat=timedelta(seconds=longest)
    )
    deliveries = list(deliver_session(recording(120), manners))
    first = {item.batch.sequence: (at, item) for at, item in enumerate(deliveries) if not item.repeat}
    back = max(item.due_ns for _, item in first.values())
    repeats = [(at, item) for at, item in enumerate(deliveries) if item.repeat]
    assert repeats
    for at, again in repeats:
        before, original = first[again.batch.sequence]
        assert at > before
        assert again.batch is original.batch
        assert original.due_ns + NS <= again.due_ns <= max(original.due_ns + longest * NS, back)


def test_a_repeat_waits_until_the_phone_is_back() -> None:
    """Nothing is sent while it is offline; on coming back, first what was not acknowledged before."""
    manners = DeliverySettings(repeat_rate=1, late_repeat_rate=1, reorder_rate=0, offline_rate=1, seed=3)
    deliveries = list(deliver_session(recording(60), manners))
    due = {item.batch.sequence: item.due_ns for item in deliveries if not item.repeat}
    back = due[59]
    gone = min(sequence for sequence, moment in due.items() if moment == back)
    assert 0 < gone < 59
    away = range(START + (gone + 1) * NS, back)
    assert not any(item.due_ns in away for item in deliveries)
    on_return = [item for item in deliveries if item.due_ns == back]
    assert on_return[0].repeat
    assert on_return[0].batch.sequence < gone


def test_repeats_at_once_follow_their_first() -> None:
    manners = DeliverySettings(repeat_rate=1, late_repeat_rate=0, reorder_rate=0, offline_rate=1)
    sequences = [item.batch.sequence for item in deliver_session(recording(10), manners)]
    assert sequences == [sequence for sequence in range(10) for _ in range(2)]


def test_regular_times_are_a_period_and_others_offsets() -> None:
    blocks = next(iter(deliver_session(recording(), CALM))).batch.blocks
    kinds = {block.sensor: (block.period_ns, block.offsets_us is None) for block in blocks}
    assert kinds == {"accelerometer": (NS // 50, True), "pressure": (None, False)}


def test_devices_send_at_the_same_time_and_sessions_are_loaded_late() -> None:
    loaded = []

    def session(name: str, start: int) -> Session:
        def load() -> Recording:
            loaded.append(name)
            return recording(10, session=name, device=f"of-{name}", start=start)

        return Session(start, load)

    stream = deliver([session("b", START + 5 * NS), session("a", START), session("c", START + 3600 * NS)], CALM)
    first = [next(stream) for _ in range(3)]
    assert {item.batch.session_id for item in first} == {"a"}
    assert loaded == ["a"]
    rest = list(stream)
    order = [item.batch.session_id for item in rest]
    assert "b" in order[: order.index("c")]
    assert "a" in order[order.index("b") :]
    assert [item.due_ns for item in rest] == sorted(item.due_ns for item in rest)
    assert order.count("c") == 10


def test_the_same_seed_sends_the_same() -> None:
    def sent(seed: int) -> list[tuple[int, int, bool]]:
        manners = DeliverySettings(seed=seed, repeat_rate=0.3, reorder_rate=0.3, offline_rate=0.5)
        return [(item.due_ns, item.batch.sequence, item.repeat) for item in deliver_session(recording(60), manners)]

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


@pytest.mark.parametrize(
    "wrong", [{"repeat_rate": 1.5}, {"offline_rate": -0.1}, {"batch": timedelta(0)}, {"late_repeat_rate": 2},
              {"late_repeat": timedelta(milliseconds=1)}],
)  # fmt: skip
def test_manners_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        DeliverySettings(**wrong)  # type: ignore[arg-type]
