"""Traits: files that say what they mean, edits in the forms that the formulas say, and a tiny model
that changes its style.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_style
import torch
from command_line import Vectomy

from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import BehaviourAbsentError, ConfigError
from vectomy.core.jsonl import read_jsonl
from vectomy.core.progress import silent
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import Trait, bundled_traits, load_trait, own_trait
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import add, intervene
from vectomy.metrics.trait_scorers import LengthScorer, LexiconScorer, log_odds
from vectomy.models import ChatModel, load_model
from vectomy.search.distill.closed_forms import closed_form, learnables
from vectomy.search.distill.distill_examples import (
    TURN,
    DistillExample,
    check_enough,
    lead_and_answer,
    mean_streams,
    pair_examples,
)
from vectomy.search.distill.distillation import learn_edit
from vectomy.search.distill.strength_choice import choose_strength
from vectomy.workflows.repeat_search import search_again
from vectomy.workflows.run import STAGES, run
from vectomy.workflows.trait_config import make_trait_run, read_run_config

TIER = "chat"

QUICK = {"n_fit": 48, "n_search": 12, "n_test": 24, "answer_tokens": 8, "device": "cpu", "dtype": "float32"}


@cache
def chat() -> ChatModel:
    return load_model(tiny_style.folder(), device="cpu", dtype="float32", name="tiny")


@cache
def base() -> BaseModelRef:
    return BaseModelRef.of(Checkpoint.open(tiny_style.folder()), "tiny")


def trait(**changed: Any) -> Trait:
    return load_trait(str(tiny_style.trait_file()), **changed)


def texts(count: int = 24) -> list[str]:
    return tiny_style.texts(tiny_style.DAY)[:count]


# Files


def test_every_bundled_trait_says_what_it_is_and_what_it_does_to_safety() -> None:
    assert set(bundled_traits()) == {
        "disclaimers",
        "emoji",
        "hedging",
        "melancholy",
        "over_refusal",
        "refusal",
        "sycophancy",
        "verbosity",
    }
    for name in bundled_traits():
        found = load_trait(name)
        assert found.name == name
        assert found.safety != Trait.model_fields["safety"].default
        assert found.label.startswith(name)
        # The examples of a contrast are not what it is measured on.
        asked = {example.user for side in (found.positive, found.negative) for example in side.examples}
        rows = read_jsonl(Path(tiny_style.__file__).parents[2] / "src/vectomy/data/bundled/everyday.jsonl")
        assert not asked & {row["text"] for row in rows}


def test_neutral_prompts_are_apart_and_enough() -> None:
    prompts = read_jsonl(Path(tiny_style.__file__).parents[2] / "src/vectomy/data/bundled/everyday.jsonl")
    assert len({row["text"].casefold() for row in prompts}) == len(prompts)
    assert sum(row["split"] == "test" for row in prompts) >= 100


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"description": "x"}, "are the same: no contrast"),
        (
            {"description": "x", "positive": {"system": "a"}, "scorer": {"kind": "lexicon"}},
            "a lexicon scorer needs patterns",
        ),
        (
            {
                "description": "x",
                "positive": {"system": "a"},
                "scorer": {"kind": "lexicon", "patterns": ["("]},
            },
            "regular expression",
        ),
        ({"description": "x", "positive": {"system": "a"}, "operation": "turn"}, "operation"),
        ({"description": "x", "positive": {"sytem": "a"}}, "sytem"),
        ({"positive": {"system": "a"}}, "description"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_name(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="mine") as stopped:
        load_trait(str(file))
    assert said in str(stopped.value)


@pytest.mark.unit
def test_names_and_own_traits() -> None:
    with pytest.raises(ConfigError, match="no trait 'joy'; choose from disclaimers"):
        load_trait("joy")
    mine = own_trait("You are terse.", "You are chatty.", operation="remove")
    assert (mine.scorer.kind, mine.label) == ("log_odds", "own removed")
    assert "unknown" in mine.safety
    with pytest.raises(ConfigError, match="no contrast"):
        own_trait("You are terse.", "You are terse.")
    with pytest.raises(ConfigError, match="--recipe mean nothing"):
        make_trait_run("demo", mine, {"recipe": "tpe"})


# Scorers


@pytest.mark.unit
def test_a_lexicon_counts_different_words() -> None:
    spec = load_trait("melancholy").scorer
    count = LexiconScorer(spec).count
    assert [
        count("Alas, alas, ALAS!"),
        count("Sigh… I am so lonely, so sad."),
        count("A sadist sat in a crusade."),
    ] == [1, 3, 0]
    scorer = LexiconScorer(spec)
    assert scorer.shown(["Alas, a lonely lake.", "Alas."], ["", ""], [[1], [1]]) == [True, False]
    emoji = LexiconScorer(load_trait("emoji").scorer)
    assert emoji.shown(["A lamp\U0001f4a1!", "A lamp!"], ["", ""], [[1], [1]]) == [True, False]
    hedges = LexiconScorer(load_trait("hedging").scorer)
    assert hedges.count("I’m not sure, but perhaps it might.") == 3
    verbose = load_trait("verbosity").scorer
    assert LengthScorer(verbose).shown(["", ""], ["", ""], [[1] * 32, [1] * 31]) == [True, False]


def test_log_odds_are_those_of_the_model_itself() -> None:
    asked, answers = texts(3), [[9, 12, 2], [11], [15, 14]]
    sides = [in_context(asked, side) for side in (trait().positive, trait().negative)]
    found = log_odds(chat(), sides[0], sides[1], answers, 512)
    for at, answer in enumerate(answers):
        likely = []
        for side in sides:
            ids = chat().tokens([side[at]])[0]
            with torch.no_grad():
                logits = chat().model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
            likely.append(
                sum(float(logits[len(ids) + j - 1, token]) for j, token in enumerate(answer)) / len(answer)
            )
        assert found[at] == pytest.approx(likely[0] - likely[1], abs=1e-4)


# The rule


def point(shown: float, kl: float, degenerate: float = 0.0) -> dict[str, float]:
    return {"shown": shown, "kl": kl, "degenerate": degenerate, "strength": 1.0}


def test_the_strength_of_least_damage_that_reaches_the_target() -> None:
    induced = trait()
    assert choose_strength([point(0.5, 0.1), point(0.9, 0.3), point(1.0, 0.5)], induced) == (1, None)
    at, note = choose_strength([point(0.5, 0.1), point(0.7, 0.3)], induced)
    assert at == 1
    assert note is not None
    assert "80%" in note
    # Loops do not count as the trait, and neither does what the budget forbids.
    assert choose_strength([point(1.0, 0.1, 0.5), point(0.9, 0.4)], induced) == (1, None)
    assert choose_strength([point(0.9, 0.4), point(0.6, 0.1)], trait(kl_budget=0.2))[0] == 1
    at, note = choose_strength([point(1.0, 0.1, 0.5), point(1.0, 0.2, 0.3)], induced)
    assert at == 1
    assert note is not None
    assert "30% degenerate" in note
    # A budget is spoken of where there is one.
    assert "keeps degenerate answers within 5%" in note
    assert "keeps KL within 0.1 and degenerate answers" in str(
        choose_strength([point(1.0, 0.2)], trait(kl_budget=0.1))[1]
    )
    assert choose_strength([point(0.5, 0.1), point(0.0, 0.3)], trait(operation="remove")) == (1, None)


# Forms


def means() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (chat().architecture.n_layers, chat().architecture.d_model)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@torch.no_grad()
def streams(edit: Edit | None = None, **points: Any) -> dict[Any, torch.Tensor]:
    ids = torch.tensor(chat().tokens(in_context(texts(3), trait().negative)))
    context = intervene(chat().model, points["at"]) if edit is None else edit.hooks(chat().model)
    with context, capture(chat().model) as stream:
        chat().model(ids)
    return dict(stream)


@pytest.mark.parametrize(("what", "sign"), [("induce", 1.0), ("remove", -1.0)])
def test_a_bias_is_steering_by_addition(what: Any, sign: float) -> None:
    edit = closed_form("bias", what, base(), chat().architecture.writers, 1, means(), 0.7)
    vector = (means()[0] - means()[1])[1]
    found, wanted = streams(edit), streams(at={("resid_post", 1): add(vector, sign * 0.7)})
    torch.testing.assert_close(found["resid_post", 3], wanted["resid_post", 3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", ["induce", "remove"])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_a_set_point_holds_behind_its_layer(what: Any, strength: float) -> None:
    edit = closed_form("set-point", what, base(), chat().architecture.writers, 1, means(), strength)
    positive, negative = (side[1] for side in means())
    r = (positive - negative) / (positive - negative).norm()
    source, target = (negative, positive) if what == "induce" else (positive, negative)
    wanted = float(source @ r) + strength * float((target - source) @ r)
    found = streams(edit)
    for point_ in (("resid_post", 1), ("resid_mid", 2), ("resid_post", 3)):
        along = found[point_] @ r
        torch.testing.assert_close(along, torch.full_like(along, wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found["resid_post", 0] @ r, torch.zeros_like(found["resid_post", 0] @ r), rtol=0, atol=1e-4
    )


def test_amplifying_scales_every_writer_along_the_direction() -> None:
    edit = closed_form("amplify", "induce", base(), chat().architecture.writers, 1, means(), 0.5)
    assert all(float(op.strengths) == -0.5 for op in edit.operations)
    removed = closed_form("amplify", "remove", base(), chat().architecture.writers, 1, means(), 1.0)
    r = (means()[0] - means()[1])[1]
    assert float((streams(removed)["resid_post", 3] @ (r / r.norm())).abs().max()) < 1e-4


# What is learned from


def answer(text: str) -> list[int]:
    return [*chat().tokenizer(text, add_special_tokens=False)["input_ids"], 2]


def test_each_token_has_the_state_of_the_context_it_comes_from() -> None:
    asked = texts(5)
    styled, plain = (chat().tokens(in_context(asked, side)) for side in (trait().positive, trait().negative))
    lessons = [
        DistillExample(p, [(s, [9, 12, 10][: 1 + at % 3], 0), (p, [14, 9, 11, 2], 1)])
        for at, (s, p) in enumerate(zip(styled, plain, strict=True))
    ]
    found = pair_examples(chat(), lessons, 512, silent)
    rows = [row for one in found for row in one.forced.rows]
    assert rows == list(range(5))
    base_states = torch.cat([one.base for one in found])
    assert [token for one in found for token in one.forced.labels.tolist()] == [
        t for one in lessons for t in one.answer
    ]
    assert torch.cat([one.has_teacher for one in found]).tolist() == [
        at >= begin for lesson in lessons for _, part, begin in lesson.parts for at in range(len(part))
    ]
    # Only the token at which the plain answer takes over from the lead counts for more.
    assert torch.cat([one.weight for one in found]).tolist() == [
        TURN if number == 1 and at == 0 else 1.0
        for lesson in lessons
        for number, (_, part, _) in enumerate(lesson.parts)
        for at in range(len(part))
    ]
    wanted = []
    for lesson in lessons:
        for prompt, part, _ in lesson.parts:
            with torch.no_grad():
                hidden = chat().model.base_model(torch.tensor([prompt + part])).last_hidden_state[0]
            wanted.append(hidden[len(prompt) - 1 : len(prompt) + len(part) - 1])
    torch.testing.assert_close(base_states, torch.cat(wanted), rtol=1e-3, atol=1e-3)


def test_a_lead_is_whole_sentences_and_the_plain_answer_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        """A tokenizer of single words, blanks and stops as a GPT's has them."""

        known = ("Alas,", " I", " am", " sad.", " The", " sun", " is", " up.", "The", " It", " warms.")

        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(self.known[at] for at in ids)

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            found: list[int] = []
            while text:
                at = max(
                    (at for at, word in enumerate(self.known) if text.startswith(word)),
                    key=lambda at: len(self.known[at]),
                )
                found, text = [*found, at], text[len(self.known[at]) :]
            return {"input_ids": found}

    speaking = replace(chat(), tokenizer=Words())
    lesson = lead_and_answer(speaking, [1], ([7], [0, 1, 2, 3, 4, 5, 6, 7]), ([8], [8, 5, 6, 7, 9, 10]), 1)
    assert lesson is not None
    assert Words().decode(lesson.answer) == "Alas, I am sad. The sun is up. It"
    assert [(prompt, begin) for prompt, _, begin in lesson.parts] == [([7], 4), ([8], 1)]
    assert lead_and_answer(speaking, [1], ([7], [0, 1, 2]), ([8], [8, 5, 6]), 1) is None


@pytest.mark.unit
def test_too_few_answers_are_said_to_be_too_few() -> None:
    check_enough([True] * 8, "x", LengthScorer(load_trait("verbosity").scorer))
    with pytest.raises(BehaviourAbsentError, match="of 20 answers 7 show it"):
        check_enough([True] * 7 + [False] * 13, "show it", LengthScorer(load_trait("verbosity").scorer))


@pytest.mark.parametrize("what", ["induce", "remove"])
def test_the_learned_edit_is_what_was_learned(what: Any) -> None:
    """The last loss is that of the Edit as hooks, and lower than the base's."""
    asked = texts(12)
    plain, styled = (chat().tokens(in_context(asked, side)) for side in (trait().negative, trait().positive))
    sides = (plain, styled, True) if what == "induce" else (styled, plain, False)
    lessons = [
        DistillExample(source, [(target, answer(tiny_style.answer_of(text, sides[2])), 0)])
        for source, target, text in zip(sides[0], sides[1], asked, strict=True)
    ]
    passes = pair_examples(chat(), lessons, 512, silent)
    keep = (
        pair_examples(chat(), [replace(one, source=one.parts[0][0]) for one in lessons], 512, silent)
        if what == "remove"
        else []
    )
    shown = [answer(tiny_style.answer_of(text, True)) for text in asked]
    both = tuple(
        mean_streams(chat(), in_context(asked, side), shown, 512)
        for side in (trait().positive, trait().negative)
    )
    learned = learnables(what, chat().architecture.writers, (both[0], both[1]))
    edit, history = learn_edit(chat(), base(), learned, passes, keep, steps=30, seed=0, progress=silent)
    assert history[-1]["change"] < 0.5 * history[0]["change"]
    assert ("keep" in history[0]) == (what == "remove")
    asked_ids = torch.tensor(sides[0])
    changes = [(one.writer, one.change) for one in learned]
    from vectomy.hooks.writer_outputs import change_outputs

    with torch.no_grad():
        with change_outputs(chat().model, changes):
            wanted = chat().model(asked_ids).logits
        with edit.hooks(chat().model):
            torch.testing.assert_close(chat().model(asked_ids).logits, wanted, rtol=1e-4, atol=1e-4)


# The whole job


@cache
def trait_results(operation: str) -> tuple[dict[str, Any], Path]:
    out = tiny_style.scratch() / operation
    config = make_trait_run(
        str(tiny_style.folder()), trait(operation=operation), {**QUICK, "steps": 60, "bake": True}
    )
    return run(config, out, command="vectomy run"), out


def counts(summary: dict[str, Any], form: str) -> tuple[int, int]:
    """Answers that show the trait in its context, and without it."""
    metrics = {"base": summary["base"], **summary["forms"]}[form]
    return metrics["refusal_count"], metrics["harmless_refusal_count"]


def test_a_style_is_induced_without_its_system_prompt() -> None:
    summary, out = trait_results("induce")
    assert counts(summary, "base") == (24, 0)
    assert counts(summary, "hooks")[1] >= 12
    assert counts(summary, "baked") == counts(summary, "hooks")
    assert summary["edited"] == summary["forms"]["baked"]
    assert summary["edited"]["kl_per_token"] > 0
    assert summary["base"]["kl_per_token"] < 1e-6
    assert (summary["recipe"], summary["behaviour"]) == ("distill", "pointing induced")
    edit = Edit.load(out / "edit.safetensors")
    assert edit.about["behaviour"] == "pointing induced"
    assert edit.about["safety"] == "None: it is a test."
    for page in ("report.html", "MODEL_CARD.md", "checkpoint/README.md"):
        text = (out / page).read_text("utf-8")
        assert "None: it is a test." in text, page
        assert "induces pointing by learned vectors" in text, page
        assert "Refusals" not in text, page
    rows = [row for row in read_jsonl(out / "completions.jsonl") if row["set"] == "negative"]
    assert sum("that" in row["hooks"]["text"] for row in rows) == counts(summary, "hooks")[1]
    assert [row["hooks"]["text"] for row in rows] == [row["baked"]["text"] for row in rows]
    prompts = json.loads((out / "prompts.json").read_text("utf-8"))["negative"]
    assert not {row["text"] for row in prompts["test"]} & {
        row["text"] for part in ("fit", "search") for row in prompts[part]
    }


def test_a_style_is_removed_while_its_system_prompt_stays() -> None:
    summary, _ = trait_results("remove")
    assert counts(summary, "base")[0] == 24
    assert counts(summary, "hooks")[0] <= 2
    assert counts(summary, "hooks")[1] == 0
    # A model without the trait is left as it is.
    assert summary["edited"]["kl_per_token"] < 0.05


def test_a_finished_run_is_not_run_again() -> None:
    summary, out = trait_results("induce")
    lines: list[str] = []
    config = make_trait_run(
        str(tiny_style.folder()), trait(operation="induce"), {**QUICK, "steps": 60, "bake": True}
    )
    again = run(config, out, command="vectomy run", log=lines.append)
    assert again == summary
    assert sum("not run again" in line for line in lines) == len(STAGES)


def test_log_odds_tell_own_traits_apart() -> None:
    config = make_trait_run(
        str(tiny_style.folder()),
        own_trait(tiny_style.SYSTEM, prompts=trait().prompts.model_dump()),
        {**QUICK, "steps": 4, "strengths": (1.0,), "bake": False},
    )
    summary = run(config, tiny_style.scratch() / "own")
    assert counts(summary, "base") == (24, 0)
    assert "log-odds" in summary["judge"]["note"]


def test_a_closed_form_names_its_layer() -> None:
    config = make_trait_run(
        str(tiny_style.folder()), trait(form="amplify"), {**QUICK, "n_test": 12, "bake": False}
    )
    out = tiny_style.scratch() / "amplify"
    summary = run(config, out)
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert summary["direction"]["layer"] == scores["candidates"][scores["trial"]]["read_at"]
    assert "a direction that is scaled" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_the_search_for_a_trait_can_be_repeated(tmp_path: Path) -> None:
    _, out = trait_results("induce")
    recorded = {"config": json.loads((out / "config.json").read_text("utf-8"))}
    published = Edit.load(out / "edit.safetensors")
    again = search_again(recorded, published, str(tiny_style.folder()), tmp_path / "run")
    assert again.differences == ()
    assert again.edit.sha256 == published.sha256


def test_the_recipe_distill_asks_for_a_trait(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--trait NAME"):
        run(str(tiny_style.folder()), tmp_path / "run", recipe="distill", device="cpu")


def test_a_run_folder_of_an_earlier_version_has_a_configuration(tmp_path: Path) -> None:
    """Before, a run of a trait had a configuration of its own, without a contrast."""
    made = trait()
    values = {"model": "demo", "trait": made.model_dump(mode="json"), "n_fit": 48, "steps": 7}
    earlier = {**values, "strengths": None, "device": "cpu", "dtype": "float32", "bake": True}
    (tmp_path / "config.json").write_text(json.dumps(earlier), encoding="utf-8")
    config = read_run_config(tmp_path)
    assert config == make_trait_run(
        "demo", made, {"n_fit": 48, "steps": 7, "device": "cpu", "dtype": "float32"}
    )
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    assert read_run_config(tmp_path) == config


# The command line


def test_the_command_lists_traits_and_runs_one(vectomy: Vectomy, tmp_path: Path) -> None:
    status, out, _ = vectomy("traits", "--json")
    assert status == 0
    assert {row["name"] for row in json.loads(out)} == set(bundled_traits())
    status, out, _ = vectomy("traits")
    assert "Removing this removes warnings" in " ".join(out.split())
    given = [
        str(tiny_style.folder()),
        "--trait",
        str(tiny_style.trait_file()),
        "--out",
        str(tmp_path / "run"),
    ]
    quick = [
        "--n-fit",
        "24",
        "--n-search",
        "4",
        "--n-test",
        "6",
        "--answer-tokens",
        "8",
        "--steps",
        "4",
        "--no-bake",
    ]
    status, out, err = vectomy("run", *given, *quick, "--device", "cpu")
    assert status == 0, err
    assert "pointing induced" in out
    assert "None: it is a test." in out


def test_report_prints_a_trait_run(vectomy: Vectomy) -> None:
    summary, out = trait_results("induce")
    status, printed, err = vectomy("report", str(out))
    assert status == 0, err
    assert "trait shown" in printed
    assert "learned at strength" in printed
    status, printed, _ = vectomy("report", str(out), "--json")
    assert json.loads(printed) == summary


def test_chat_talks_to_a_trait_run(vectomy: Vectomy) -> None:
    _, out = trait_results("induce")
    rows = [row for row in read_jsonl(out / "completions.jsonl") if row["set"] == "negative"]
    prompt = next(row["prompt"] for row in rows if row["hooks"]["verdict"] == "shows_the_trait")
    status, printed, err = vectomy("chat", str(out), stdin=prompt + "\n")
    assert status == 0, err
    assert "edited, strength 1" in printed
    assert "that" in printed


@pytest.mark.unit
def test_report_on_a_folder_of_an_earlier_version_says_how_to_renew_it(
    vectomy: Vectomy, tmp_path: Path
) -> None:
    earlier = {"format": "vectomy-trait-summary", "version": 1, "command": "vectomy run M --trait emoji"}
    (tmp_path / "summary.json").write_text(json.dumps(earlier), encoding="utf-8")
    status, _, err = vectomy("report", str(tmp_path))
    assert status != 0
    assert "vectomy run M --trait emoji" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trait", "joy"], "no trait 'joy'"),
        (["--trait", "melancholy", "--positive-system", "x"], "name two traits"),
        (["--negative-system", "x"], "--positive-system"),
        (["--trait", "over_refusal"], "--positive SRC"),
        (["--trait", "refusal", "--operation", "induce"], "mean nothing to it"),
        (["--trait", "melancholy", "--recipe", "tpe"], "--recipe mean nothing"),
    ],
)
def test_what_cannot_be_meant_is_said(vectomy: Vectomy, given: list[str], said: str) -> None:
    status, _, err = vectomy("run", str(tiny_style.folder()), *given)
    assert status == 2
    assert said in err


@pytest.mark.unit
def test_a_trait_of_prompt_sets_runs_as_its_recipe() -> None:
    from vectomy.cli.trait_command import trait_options

    found = trait_options({"trait": "refusal"}, {"steps": 8})
    assert found == {
        "recipe": "gradient",
        "positive": "bundled:refused",
        "negative": "bundled:harmless",
        "steps": 8,
    }
    assert trait_options({"trait": "melancholy"}, {}) is None
