"""What a stage takes is measured; what was not measured is null, never 0."""

from __future__ import annotations

import time
from pathlib import Path

from vectomy.core.cache import Cache
from vectomy.core.cost_meter import CostMeter, Resident, highest_cost
from vectomy.core.results import StageCost
from vectomy.core.run_folder import RunFolder, read_json, write_json

TIER = "unit"
MIB = 1 << 20


class Sizes(Resident):
    """Memory that is whatever a test says."""

    def __init__(self, now: int, peak: int | None = None) -> None:
        super().__init__()
        self.bytes, self.peak = now, peak

    def now(self) -> int:
        return self.bytes

    def lifetime_peak(self) -> int | None:
        return self.peak


def test_the_peak_is_of_this_work_and_not_of_the_work_before_it() -> None:
    held = bytearray(96 * MIB)
    with CostMeter() as meter:
        before = Resident().now()
        del held
        time.sleep(0.2)
    # A block as large as this is mapped alone and given back at once, unless malloc is told not to.
    assert before - 8 * MIB <= (meter.cost.peak_memory_bytes or 0) <= before + 64 * MIB
    with CostMeter() as second:
        held = bytearray(64 * MIB)
        time.sleep(0.2)
        del held
    assert (second.cost.peak_memory_bytes or 0) >= 64 * MIB
    assert (second.cost.seconds or 0) >= 0.2


def test_a_peak_between_two_samples_is_seen_where_the_system_keeps_one() -> None:
    memory = Sizes(now=100, peak=100)
    with CostMeter(memory) as meter:
        memory.peak = 700
    assert meter.cost.peak_memory_bytes == 700
    with CostMeter(memory) as meter:
        memory.bytes = 300
    assert meter.cost.peak_memory_bytes == 300, "the highest of the process was before"
    with CostMeter(Sizes(now=50)) as meter:
        pass
    assert meter.cost.peak_memory_bytes == 50


def test_without_a_card_no_bytes_of_one_are_known() -> None:
    with CostMeter() as meter:
        pass
    assert meter.cost.to_json()["peak_device_bytes"] is None


def test_processor_time_is_that_of_all_threads_and_not_of_waiting() -> None:
    ticks = iter([100.0, 107.5])
    with CostMeter(clock=iter([3.0, 5.0]).__next__, processor=ticks.__next__) as meter:
        pass
    assert (meter.cost.seconds, meter.cost.processor_seconds) == (2.0, 7.5)
    with CostMeter() as meter:
        time.sleep(0.3)
    assert (meter.cost.processor_seconds or 0) < 0.2 < (meter.cost.seconds or 0)


def test_an_error_ends_the_measurement_and_is_raised() -> None:
    meter = CostMeter()
    try:
        with meter:
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert meter.cost.seconds is not None
    else:
        raise AssertionError("the error was lost")


def test_seconds_add_up_and_the_higher_peak_counts() -> None:
    first = StageCost(seconds=2.0, processor_seconds=1.5, peak_memory_bytes=5, peak_device_bytes=None)
    second = StageCost(seconds=3.5, processor_seconds=7.0, peak_memory_bytes=4, peak_device_bytes=9)
    together = highest_cost(first, second)
    assert together == StageCost(seconds=5.5, processor_seconds=8.5, peak_memory_bytes=5, peak_device_bytes=9)
    nothing = highest_cost(StageCost(), StageCost())
    assert (nothing.seconds, nothing.peak_memory_bytes, nothing.peak_device_bytes) == (None, None, None)


def test_a_stage_that_is_not_run_again_keeps_what_it_took(tmp_path: Path) -> None:
    def run() -> dict[str, StageCost]:
        with RunFolder(tmp_path / "run") as folder:
            folder.stage("make", "", {}, ["made.json"], lambda: write_json(folder.file("made.json"), [1]))
            return folder.costs()

    first = run()
    assert run() == first
    assert first["make"].seconds is not None
    assert (first["make"].peak_memory_bytes or 0) > MIB
    # Of a version that measured seconds alone.
    record = tmp_path / "run" / "stages" / "make.json"
    newer = ("peak_", "processor_")
    old = {name: value for name, value in read_json(record).items() if not name.startswith(newer)}
    write_json(record, {**old, "seconds": 1.5})
    assert run()["make"] == StageCost(seconds=1.5)


def test_kept_measurements_cost_what_they_cost_when_they_were_made(tmp_path: Path) -> None:
    costs = []
    for _ in range(2):
        cache = Cache(tmp_path / "cache")
        for name in "ab":
            cache.get_or_compute({"kind": name}, lambda: time.sleep(0.01))
        costs.append(cache.cost)
    assert costs[0] == costs[1]
    assert (costs[0].seconds or 0) >= 0.02
    assert (costs[0].peak_memory_bytes or 0) > MIB
