"""Every value has one place, is checked there, and a wrong one is named with what it should be."""

import json
from pathlib import Path
from typing import Any

import pytest

from vectomy.cli.options import run_options
from vectomy.core.config import Runtime, load_config
from vectomy.core.errors import ConfigError
from vectomy.core.evaluation_config import parse_evaluation
from vectomy.core.run_config import FLAT, RunConfig, Selection, make_config, parse_config, parse_selection

TIER = "unit"

SIDES = {"positive": "a.txt", "negative": "b.txt"}


def values(**more: Any) -> dict[str, Any]:
    return {"model": "m", "contrast": {side: {"prompts": file} for side, file in SIDES.items()}, **more}


UNKNOWN = {
    "top": ({"colour": 1}, "colour", "recipe"),
    "contrast": ({"contrast": {**values()["contrast"], "n_fits": 3}}, "contrast.n_fits", "n_fit"),
    "source": (
        {"contrast": {**values()["contrast"], "positive": {"prompts": "a", "sys": ""}}},
        "contrast.positive.sys",
        "system",
    ),
    "optional": (
        {"contrast": {**values()["contrast"], "positive_test": {"prompts": "a", "x": ""}}},
        "contrast.positive_test.x",
        "prompts",
    ),
    "selection": ({"selection": {"kl": 1}}, "selection.kl", "kl_threshold"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_key_is_named_with_those_that_are_known_there(case: str) -> None:
    change, key, known = UNKNOWN[case]
    message = rf"unknown configuration key '{key}'(?: \(did you mean \w+\?\))?; known here: "
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(values(**change))
    assert known in str(caught.value).partition("known here: ")[2].split(", ")


OUT_OF_RANGE = {
    "recipe": "magic",
    "estimator": "mean",
    "seed": -1,
    "batch_tokens": 8,
    "threads": 0,
    "answer_tokens": 0,
    "dtype": "int8",
    "n_fit": 1,
    "kl_threshold": 0,
    "layer_fraction": 1.5,
    "candidates": 0,
    "pick": -1,
    "shown_tokens": 0,
    "force": "perhaps",
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(name: str) -> None:
    key = ".".join(FLAT.get(name, (name,)))
    with pytest.raises(ConfigError, match=rf"configuration key '{key}' is {OUT_OF_RANGE[name]!r}: "):
        make_config("m", {**SIDES, name: OUT_OF_RANGE[name]})


def test_all_wrong_keys_are_named_at_once_and_a_missing_one_too() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"contrast": {"positive": {"prompts": "a"}}, "colour": 1, "seed": -1})
    for part in ("'model' is missing", "'contrast.negative' is missing", "'colour'", "'seed' is -1"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"unknown configuration key 'kl'; known here: .*kl_threshold"):
        parse_selection({"kl": 1})


# Short names


def options() -> set[str]:
    return set(run_options())


def dumped(config: RunConfig, place: tuple[str, ...]) -> Any:
    value: Any = config.model_dump()
    for part in place:
        value = value[part]
    return value


SAMPLES = {
    "recipe": "article",
    "estimator": "projected",
    "dtype": "float32",
    "kl_threshold": 0.25,
    "induce_threshold": -1.5,
    "target_rate": 0.25,
    "steps": 7,
    "per_layer": True,
    "kl_budget": 0.125,
    "max_degenerate": 0.125,
    "layer_fraction": 0.5,
    "behaviour_tokens": ("I",),
    "batch_tokens": 128,
    "threads": 3,
    "max_memory": "1.5gb",
    "thought_tokens": 7,
    "load_in": "4bit",
}


def sample(name: str) -> Any:
    """A value that is not the default."""
    if name in SAMPLES:
        return SAMPLES[name]
    place = FLAT.get(name, (name,))
    held = dumped(make_config("m", SIDES), place) if len(place) < 3 or name in SIDES else "text"
    return (not held) if isinstance(held, bool) else 7 if name == "pick" or isinstance(held, int) else "other"


@pytest.mark.parametrize("name", sorted(options()))
def test_every_option_of_the_command_line_lands_in_one_field(name: str) -> None:
    given = {
        **SIDES,
        **({name.replace("_system", ""): "a"} if name.endswith("_system") else {}),
        name: sample(name),
    }
    config, plain = (
        make_config("m", given),
        make_config("m", {**SIDES, **{k: v for k, v in given.items() if k in SIDES}}),
    )
    assert dumped(config, FLAT.get(name, (name,))) == sample(name)
    assert config != plain or name in SIDES


def test_every_field_has_a_short_name() -> None:
    """`vectomy.run(...)` reaches all of the configuration; only source folders and the model have
    no name of their own.
    """
    nested = {"contrast", "selection", "model", "runtime"}
    flat = {*FLAT, *RunConfig.RUNTIME_KEYS, *(set(RunConfig.model_fields) - nested)}
    assert options() <= flat
    assert set(Selection.model_fields) <= flat
    assert {f"{side}{part}" for side in SIDES for part in ("", "_search", "_test", "_system")} <= flat


def test_options_that_are_not_given_change_nothing() -> None:
    assert make_config("m", dict.fromkeys(options()) | SIDES) == make_config("m", SIDES)


def test_false_and_zero_are_given() -> None:
    config = make_config("m", {**SIDES, "bake": False, "seed": 0, "pick": 0}, {"seed": 5, "bake": True})
    assert (config.bake, config.seed, config.selection.pick) == (False, 0, 0)


# Defaults and files


def test_the_demo_takes_the_bundled_prompts_and_other_models_those_on_the_hub() -> None:
    demo, other = make_config("demo", {}).contrast, make_config("m", {}).contrast
    assert (demo.positive.prompts, demo.negative.prompts) == ("bundled:refused", "bundled:harmless")
    assert other.positive.prompts == "mlabonne/harmful_behaviors"
    assert other.negative.prompts == "mlabonne/harmless_alpaca"
    one = make_config("demo", {"positive": "mine.txt"}).contrast
    assert (one.positive.prompts, one.negative.prompts) == ("mine.txt", "bundled:harmless")


def test_a_system_prompt_alone_keeps_the_default_prompts() -> None:
    contrast = make_config("demo", {"positive_system": "be sad"}).contrast
    assert (contrast.positive.prompts, contrast.positive.system) == ("bundled:refused", "be sad")


@pytest.mark.parametrize(
    ("recipe", "estimator", "expected"),
    [
        ("arditi", None, "projected"),
        ("article", None, "difference_of_means"),
        ("article", "projected", "projected"),
    ],
)
def test_the_estimator_is_the_recipes_own_unless_given(
    recipe: str, estimator: str | None, expected: str
) -> None:
    assert make_config("m", {"recipe": recipe, "estimator": estimator}).direction_estimator == expected


def test_options_override_the_file_and_leave_it_as_it_was() -> None:
    file = {
        "model": "other",
        "seed": 3,
        "selection": {"kl_threshold": 0.5},
        "contrast": {"positive": {"prompts": "f"}},
    }
    before = json.dumps(file)
    config = make_config("m", {"seed": 4, "induce_threshold": 1.0}, file)
    assert (config.model, config.seed) == ("m", 4)
    assert (config.selection.kl_threshold, config.selection.induce_threshold) == (0.5, 1.0)
    assert (config.contrast.positive.prompts, config.contrast.negative.prompts) == (
        "f",
        "mlabonne/harmless_alpaca",
    )
    assert json.dumps(file) == before


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml, plain = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text('seed = 3\n[contrast.positive]\nprompts = "é.txt"\n', encoding="utf-8")
    plain.write_text('{"seed": 3, "contrast": {"positive": {"prompts": "é.txt"}}}', encoding="utf-8")
    assert load_config(toml) == load_config(plain)
    assert make_config("m", {}, load_config(toml)).contrast.positive.prompts == "é.txt"


def test_a_configuration_survives_its_own_json() -> None:
    config = make_config("m", {**SIDES, "behaviour_tokens": ["I"], "positive_test": "t.txt", "pick": 3})
    assert parse_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


BAD_FILES = {
    "c.toml": b"seed =",
    "c.json": b"{",
    "d.json": b"[1]",
    "c.yaml": b"seed: 1",
    "e.toml": b"\xff",
    "f.json": b"\xff",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_does_not_parse_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD_FILES[name])
    with pytest.raises(ConfigError, match=name):
        load_config(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none.toml does not exist"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"folder.toml"):
        load_config(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    "contrast", [{"positive": "a.txt"}, {"positive": None}, {"positive": 3}, "a.txt", [], None], ids=repr
)
def test_a_contrast_of_the_wrong_shape_is_a_config_error(contrast: Any) -> None:
    """A prompt file written where a table is wanted, for one."""
    for given in ({}, {"positive_system": "x"}):
        with pytest.raises(ConfigError, match="contrast"):
            make_config("m", given, {"contrast": contrast})


# Runtime


def test_runtime_is_one_value_with_flat_keys_on_disk() -> None:
    given = {"device": "cpu", "dtype": "float32", "batch_tokens": 128, "thinking": True}
    config = make_config("m", {**SIDES, **given})
    assert config.runtime == Runtime(**given)
    stored = config.model_dump(mode="json")
    assert "runtime" not in stored
    assert {name: stored[name] for name in Runtime.model_fields} == config.runtime.model_dump()
    assert parse_config(stored) == config
    assert set(config.model_dump(include={"device", "seed"})) == {"device", "seed"}
    assert not {"device", "dtype"} & set(config.model_dump(exclude={"device", "dtype"}))


def test_runtime_keys_not_given_keep_the_default_of_the_job() -> None:
    values = {"subjects": ["a"], "prompts": ["b"], "device": "cpu"}
    assert parse_evaluation(values).runtime == Runtime(device="cpu", batch_tokens=16384)


def test_an_error_names_the_option_that_was_typed() -> None:
    with pytest.raises(ConfigError, match=r"^--n-fit is 1: input should be greater than or equal to 2$"):
        make_config("m", {**SIDES, "n_fit": 1}, flags=True)
    with pytest.raises(ConfigError, match=r"^configuration key 'contrast.n_fit' is 1"):
        make_config("m", SIDES, {"contrast": {"n_fit": 1}}, flags=True)
    with pytest.raises(ConfigError, match=r"^configuration key 'batch_tokens' is 1"):
        make_config("m", {**SIDES, "batch_tokens": 1})
