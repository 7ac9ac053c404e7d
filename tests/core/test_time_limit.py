"""A call ends within its time, with its result or with TimeLimitError, and nothing comes later."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from vectomy.core.time_limit import TimeLimitError, call_within

TIER = "unit"


def spin() -> None:
    while True:
        pass


def test_the_result_or_the_error_of_a_call_is_passed_on() -> None:
    assert call_within(10, lambda: "result") == "result"
    with pytest.raises(ZeroDivisionError):
        call_within(10, lambda: 1 // 0)


def test_a_call_without_end_is_stopped_on_any_thread() -> None:
    errors: list[str] = []

    def work() -> None:
        try:
            call_within(0.05, spin)
        except TimeLimitError:
            errors.append("stopped")

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert errors == ["stopped"] * 2


def test_a_call_that_ends_as_its_time_does_stops_nothing_later() -> None:
    def work() -> str:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        return "result"

    for number in range(200):
        with contextlib.suppress(TimeLimitError):
            assert call_within(0.0015 + number * 5e-6, work) == "result"
        assert sum(range(100)) == 4950
