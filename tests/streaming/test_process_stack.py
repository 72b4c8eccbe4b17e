"""Services that end together, what signals do meanwhile, and a lock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streaming import process


def test_services_end_in_reverse_order_even_if_one_cannot() -> None:
    ended: list[str] = []

    def refuse() -> None:
        ended.append("second")
        msg = "second cannot"
        raise OSError(msg)

    def work() -> None:
        with process.stack() as services:
            services.callback(ended.append, "first")
            services.callback(refuse)
            services.callback(ended.append, "third")
            msg = "the work"
            raise ValueError(msg)

    with pytest.raises(OSError, match="second cannot") as caught:
        work()
    assert ended == ["third", "second", "first"]
    assert isinstance(caught.value.__context__, ValueError)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_leaves_the_stack_as_an_exception(number: signal.Signals, raised: type[BaseException]) -> None:
    before = signal.getsignal(number)
    ended: list[str] = []

    def work() -> None:
        with process.stack() as services:
            services.callback(ended.append, "service")
            signal.raise_signal(number)
            ended.append("the signal was lost")

    with pytest.raises(raised):
        work()
    assert ended == ["service"]
    assert signal.getsignal(number) is before


def test_a_signal_waits_while_services_are_ended() -> None:
    ended: list[str] = []

    def work() -> None:
        with process.stack() as services:
            services.callback(ended.append, "first")
            services.callback(signal.raise_signal, signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        work()
    assert ended == ["first"]
    assert caught.value.code == 143


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_stack_in_a_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with process.stack() as services:
            seen.append(signal.getsignal(signal.SIGTERM))
            services.callback(seen.append, "ended")

    in_thread(work).join()
    assert seen == [before, "ended"]


def test_a_lock_is_held_by_one_and_who_waits_is_told_by_whom(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        def waits(who: str) -> None:
            assert who.startswith(f"process {os.getpid()} on ")
            order.append("waits")
            waiting.set()

        with process.exclusive(tmp_path / "new" / "lock", waits=waits):
            order.append("second")

    with process.exclusive(tmp_path / "new" / "lock", waits=order.append):
        thread = in_thread(second)
        waiting.wait(30)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "second"]
