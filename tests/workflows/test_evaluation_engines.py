"""`vectomy evaluate` with answers of a server and of vLLM: the numbers are those of the own loop,
and what takes logits of a served model is not measured.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny_chat
from chat_server import answering, stand_in
from command_line import Vectomy
from tiny_evaluation import go, places, undisturbed

from vectomy.core.errors import ConfigError, EditError, EngineError, PreflightError, UsageError
from vectomy.core.jsonl import read_jsonl
from vectomy.edits.edit import Edit
from vectomy.models import load_model, with_adapter
from vectomy.models.vllm_engine import rank_of_adapter

TIER = "chat"

DAMAGE = {"kl_first_token", "kl_per_token", "kl_per_token_stderr", "ce_own_answers"}


def base_results(evaluation: dict[str, Any]) -> Any:
    return evaluation["results"][evaluation["base"]]


# A server


def test_a_served_edit_has_the_numbers_of_the_edit_but_for_what_takes_logits(tmp_path: Path) -> None:
    chat, edit = tiny_chat.chat(), Edit.load(places()["edit"])
    with stand_in(answering(chat, {"edited": edit})) as server:
        subject = f"openai:{server.address}#edited"
        # `go` looks its subjects up.
        places()[subject] = subject
        options = {
            "gates": ("night<=0.1", "edited:kl<=0.5"),
            "texts": (places()["text"],),
            "multi_turn": True,
        }
        result = go(tmp_path, ["tiny", "edit@1", subject], **options)
        again = len(server.requests)
        assert go(tmp_path, ["tiny", "edit@1", subject], **options)["results"] == result["results"]
        assert len(server.requests) == again
    own, served = result["results"]["edit@1"], result["results"]["edited"]
    for name in ("night", "day"):
        assert own["sets"][name].keys() >= DAMAGE
        measured = own["sets"][name] | dict.fromkeys(DAMAGE)
        for numbers in (measured, served["sets"][name]):
            # The end of the turn is a token that no server shows.
            assert numbers.pop("length_mean") > 0
            assert numbers.pop("length_ratio") > 0
        assert served["sets"][name] == measured
    assert served["multi_turn"] == own["multi_turn"]
    assert served["perplexity"] == {"text.txt": dict.fromkeys(("nats_per_token", "perplexity", "tokens"))}
    (row,) = [row for row in result["subjects"] if row["name"] == "edited"]
    assert (row["kind"], row["sha256"], row["source"]) == ("served", None, "openai:edited")
    gates = {(gate["subject"], gate["gate"]): gate["status"] for gate in result["gates"]}
    assert gates["edited", "edited:kl<=0.5"] == "unresolved"
    assert gates["edited", "night<=0.1"] == gates["edit@1", "night<=0.1"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "served model" in page
    assert "127.0.0.1" not in page + (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    texts = [row["answers"] for row in read_jsonl(tmp_path / "completions.jsonl")]
    assert all(row["edited"] == row["edit@1"] for row in texts)


def test_a_server_answers_for_the_base(tmp_path: Path) -> None:
    with stand_in(answering(tiny_chat.chat())) as server:
        result = go(tmp_path, ["tiny"], engine=f"openai:{server.address}#m")
        sent = len(server.requests)
        with pytest.raises(UsageError, match=r"answers for .* alone, not for edit@1; serve that too"):
            go(tmp_path / "other", ["tiny", "edit@1"], engine=f"openai:{server.address}#m")
    assert sent > 20
    _, own = undisturbed()
    for name in ("night", "day"):
        assert base_results(result)["sets"][name]["verdicts"] == base_results(own)["sets"][name]["verdicts"]
        assert base_results(result)["sets"][name]["by_budget"] == base_results(own)["sets"][name]["by_budget"]
    assert result["settings"]["engine"] == "openai:m"
    assert own["settings"]["engine"] == "own"


def test_a_server_that_says_nothing_answers_with_the_end_alone(tmp_path: Path) -> None:
    """Own answers hold the token that ends them, so that damage has a first token."""
    with stand_in(lambda number, body: "" if number % 2 else "sure") as server:
        result = go(tmp_path, ["tiny"], engine=f"openai:{server.address}#m", sets=("day",))
    numbers = result["results"][f"{result['base']} again"]["sets"]["day"]
    assert numbers["kl_first_token"] == pytest.approx(0.0, abs=1e-6)
    assert base_results(result)["sets"]["day"]["length_mean"] == 1


def test_lengths_of_a_server_count_behind_its_thought(tmp_path: Path) -> None:
    with stand_in(lambda number, body: tiny_chat.THOUGHT + "sure sure") as server:
        subject = f"openai:{server.address}#m"
        places()[subject] = subject
        result = go(tmp_path, ["tiny", subject], sets=("day",), budgets=(1,), controls=False)
    # Cut inside of the thought, none would be an answer.
    assert result["results"]["m"]["sets"]["day"]["by_budget"]["1"]["refusal"]["total"] == 10


def test_a_server_that_refuses_ends_the_command_before_any_work(tmp_path: Path, vectomy: Vectomy) -> None:
    with stand_in(lambda number, body: (401, "no key")) as server:
        status, _, err = vectomy(
            *("evaluate", places()["tiny"], f"openai:{server.address}#m", "--prompts", places()["night"]),
            *("--out", str(tmp_path / "out"), "--device", "cpu"),
        )
        assert (status, len(server.requests)) == (1, 1)
    assert "status 401 no key; set $VECTOMY_ENGINE_KEY" in " ".join(err.split())
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.unit
def test_an_engine_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine.* is 'fast': input should be own, vllm or openai:URL"):
        go(Path("unused"), ["tiny"], engine="fast")


# vLLM, which does not run here: a stand-in that checks its calls, and answers with PEFT


class SamplingParams:
    def __init__(self, *, temperature: float, max_tokens: int, stop_token_ids: list[int], seed: int) -> None:
        assert (temperature, seed) == (0.0, 0)
        self.max_tokens, self.stop_token_ids = max_tokens, stop_token_ids


class LoRARequest:
    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str) -> None:
        assert lora_int_id > 0
        self.name, self.number, self.path = lora_name, lora_int_id, lora_path


class LLM:
    started: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.started.append(options)
        assert options["model"] == options["tokenizer"]
        self.options = options
        self.numbers: dict[int, str] = {}

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        params: SamplingParams,
        *,
        use_tqdm: bool,
        lora_request: Any,
    ) -> list[Any]:
        assert not use_tqdm
        assert params.stop_token_ids == [2]
        tokens = [prompt["prompt_token_ids"] for prompt in prompts]
        assert max(map(len, tokens)) + params.max_tokens <= self.options["max_model_len"]
        chat = tiny_chat.chat()
        if lora_request is not None:
            assert self.options["enable_lora"]
            assert rank_of_adapter(Path(lora_request.path)) <= self.options["max_lora_rank"]
            assert self.numbers.setdefault(lora_request.number, lora_request.path) == lora_request.path
            anew = load_model(tiny_chat.folder(), device="cpu", dtype="float32", name="tiny")
            chat = with_adapter(anew, lora_request.path)
        answers = chat.answer(tokens, params.max_tokens, 4096)
        return [types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=ids)]) for ids in answers]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    library, requests = types.ModuleType("vllm"), types.ModuleType("vllm.lora.request")
    library.__dict__.update(
        LLM=LLM, SamplingParams=SamplingParams, __spec__=types.SimpleNamespace(name="vllm")
    )
    requests.__dict__.update(LoRARequest=LoRARequest)
    for name, module in {"vllm": library, "vllm.lora": types.ModuleType("vllm.lora")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", requests)
    LLM.started.clear()
    return LLM


def test_vllm_quantises_for_itself(tmp_path: Path, vllm: type[LLM]) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UsageError, match=r"--engine vllm loads the models itself.* --load-in 4bit .*openai:"):
        go(tmp_path, ["tiny"], engine="vllm", load_in="4bit")


def test_vllm_answers_for_models_edits_and_controls_as_the_own_loop(tmp_path: Path, vllm: type[LLM]) -> None:
    result = go(tmp_path, ["tiny", "edit@0.5,1"], engine="vllm")
    _, own = undisturbed()
    assert result["results"] == own["results"]
    # One start serves the base, both strengths and the control.
    assert len(vllm.started) == 1
    assert vllm.started[0]["max_lora_rank"] == 8
    assert "gpu_memory_utilization" not in vllm.started[0]


def test_vllm_answers_for_an_adapter_of_the_base(tmp_path: Path, vllm: type[LLM]) -> None:
    subjects = {"sets": ("night",), "controls": False}
    result = go(tmp_path / "vllm", ["tiny", "adapter"], engine="vllm", **subjects)
    own = go(tmp_path / "own", ["tiny", "adapter"], **subjects)
    assert result["results"] == own["results"]
    # One start serves the base and the adapter.
    assert len(vllm.started) == 1
    assert vllm.started[0]["max_lora_rank"] == 8


def test_vllm_that_fails_or_is_not_there_is_said(
    tmp_path: Path, vllm: type[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *args: Any, **options: Any) -> None:
        raise RuntimeError("no kernel\nfor this card")

    with monkeypatch.context() as patched:
        patched.setattr(vllm, "generate", fail)
        with pytest.raises(
            EngineError, match=r"vLLM cannot answer with .*no kernel for this card.*--engine own"
        ):
            go(tmp_path / "a", ["tiny"], engine="vllm")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises((EngineError, PreflightError), match=r"--engine vllm needs the package vllm"):
        go(tmp_path / "b", ["tiny"], engine="vllm")


def test_an_edit_that_vllm_would_compute_otherwise_is_refused(tmp_path: Path, vllm: type[LLM]) -> None:
    edit = Edit.load(places()["edit"])
    basis = edit.operations[0].basis
    kept = Edit.from_directions(basis, edit.base, _writers(), norm="row")
    kept.save(tmp_path / "kept.safetensors")
    places()["kept"] = str(tmp_path / "kept.safetensors")
    with pytest.raises(EditError, match=r"vLLM cannot serve .* exactly: it keeps the lengths of rows .*DoRA"):
        go(tmp_path / "out", ["tiny", "kept"], engine="vllm", controls=False)


def _writers() -> list[Any]:
    return [writer for writer in tiny_chat.chat().architecture.writers if writer.layer is not None]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("config", "rank"),
    [
        ({"r": 1, "lora_alpha": 1}, 8),
        ({"r": 9, "lora_alpha": 9}, 16),
        ({"r": 1, "lora_alpha": 1, "rank_pattern": {"a": 3}, "alpha_pattern": {"a": 3}}, 8),
        ({"r": 2, "lora_alpha": 4, "rank_pattern": {"a": 3}, "alpha_pattern": {"a": 6}}, 8),
        ({"r": 2, "lora_alpha": 4, "rank_pattern": {"a": 3}}, "its scale differs"),
        ({"r": 2, "lora_alpha": 4, "alpha_pattern": {"a": 1}}, "its scale differs"),
        ({"r": 1, "lora_alpha": 1, "bias": "lora_only"}, "it changes biases"),
        ({"r": 1, "lora_alpha": 1, "lora_bias": True}, "it changes biases"),
        ({"r": 1, "lora_alpha": 1, "target_parameters": ["experts.down_proj"]}, "fused experts"),
        ({"r": 1, "lora_alpha": 1, "modules_to_save": ["lm_head"]}, "whole layers"),
        ({"r": 513, "lora_alpha": 513}, "its rank 513 is above 512"),
        ({"peft_type": "IA3"}, r"adapter_config.json describes none: its peft_type is 'IA3', and r is wrong"),
        ([], r"its peft_type is None, and the file is wrong .*; use --engine own"),
    ],
)
def test_what_vllm_computes_of_an_adapter(tmp_path: Path, config: dict[str, Any], rank: int | str) -> None:
    """vLLM multiplies every layer's product with lora_alpha / r, the usual ones."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    if isinstance(rank, int):
        assert rank_of_adapter(tmp_path) == rank
    else:
        with pytest.raises(EditError, match=rank):
            rank_of_adapter(tmp_path)
