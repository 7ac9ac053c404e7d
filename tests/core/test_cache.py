"""A value of the cache is computed once for its inputs."""

from pathlib import Path

from vectomy.core.cache import Cache

TIER = "unit"


def test_a_value_is_made_once_for_its_inputs(tmp_path: Path) -> None:
    made = []
    cache = Cache(tmp_path / "cache")

    def work() -> list[int]:
        made.append(1)
        return [len(made)]

    inputs = {"kind": "answers", "subject": "a"}
    assert inputs not in cache
    assert [cache.get_or_compute(inputs, work) for _ in range(2)] == [[1], [1]]
    assert Cache(tmp_path / "cache").get_or_compute(inputs, work) == [1]
    assert inputs in cache
    assert cache.get_or_compute({"kind": "answers", "subject": "b"}, work) == [2]
    assert len(list((tmp_path / "cache").iterdir())) == 2
