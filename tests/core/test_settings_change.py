"""How the settings of two commands differ, in words."""

from vectomy.core.settings_change import RunSettings

TIER = "unit"


def differences(now: dict, stored: dict, **more: object) -> list[str]:
    return RunSettings(now, **more).list_differences(RunSettings(stored))


def test_each_difference_is_a_name_with_both_values() -> None:
    stored = {"seed": 0, "bake": True, "tokens": ["I"], "keep": None, "same": 1, "gone": 1}
    now = {"seed": 1, "bake": False, "tokens": ["I", "We"], "keep": "a.txt", "same": 1, "added": 2}
    assert differences(now, stored) == [
        "seed: 0 -> 1",
        "bake: yes -> no",
        "tokens: I -> I,We",
        "keep: none -> a.txt",
    ]
    assert differences(stored, stored) == []


def test_long_values_keep_both_ends_and_many_are_counted() -> None:
    (text,) = differences({"file": "/home/" + "a" * 90 + "/one.txt"}, {"file": "x"})
    assert text.startswith("file: x -> /home/a")
    assert text.endswith("a/one.txt")
    assert len(text) < 90
    many = {str(number): number for number in range(9)}
    assert differences(many, dict.fromkeys(many))[-1] == "and 3 more"


def test_contents_are_named_where_no_value_differs() -> None:
    stored = RunSettings({"seed": 0}, {"the prompts": "a", "the model": "b"})
    now = RunSettings({"seed": 0}, {"the prompts": "c", "the model": "b", "the file": "d"})
    assert now.list_differences(stored) == ["the prompts: changed"]
    assert RunSettings({"seed": 1}, now.contents).list_differences(stored) == ["seed: 0 -> 1"]


def test_more_contents_replace_none_where_results_grow() -> None:
    stored = RunSettings({}, {"a": "1", "b": "1"})
    assert RunSettings({}, {"a": "1", "b": "1", "c": "1"}, grows=True).list_differences(stored) == []
    assert RunSettings({}, {"a": "1", "c": "1"}, grows=True).list_differences(stored) == ["b: left out"]


def test_settings_are_read_as_written_and_what_a_hand_changed_is_absent() -> None:
    settings = RunSettings({"seed": 0, "list": [1, None]}, {"the prompts": "a"})
    assert RunSettings.of(settings.to_json()) == settings
    for damaged in (None, [], {"values": 3, "contents": "x"}):
        assert RunSettings.of(damaged) == RunSettings({})
