"""Answers by vLLM, from the same prompt tokens as this project's own loop; an Edit is served as
a LoRA. vLLM is imported at the first answer.

It takes adapters of plain LoRA on linear layers and embeddings alone: no DoRA, no biases, no
parameters of their own (fused experts).
https://github.com/vllm-project/vllm/blob/main/vllm/lora/peft_helper.py
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from vectomy.core.config import Runtime
from vectomy.core.errors import EditError, EngineError
from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.quoted_error import quote_error
from vectomy.core.run_folder import read_json
from vectomy.models.chat import ChatModel
from vectomy.models.memory import available_memory, loaded_bytes

__all__ = ["VllmEngine", "rank_of_adapter"]

# What vLLM takes as max_lora_rank (vllm/config/lora.py).
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
FEWEST_POSITIONS = 4096
# Share of the free memory of a card; what the own model needs for its passes comes off it.
SHARE = 0.9


class VllmEngine:
    """One model in vLLM at a time; another path, or longer prompts, starts it anew."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._started: tuple[Path, int, int] | None = None
        self._model: Any = None
        self._adapters: dict[Path, int] = {}

    def answer(
        self,
        chat: ChatModel,
        tokens: Sequence[Sequence[int]],
        max_new_tokens: int,
        adapter: Path | None = None,
        adapters: Iterable[Path] = (),
    ) -> list[list[int]]:
        """Greedy answers as token ids, as of `ChatModel.answer`.

        Args:
            chat: the model, which needs no weights: its folder, its tokenizer and its ends.
            adapter: the folder of the LoRA to answer with.
            adapters: all that will be asked for, so that one start serves them.

        Raises:
            EngineError: vLLM does not start, or fails.
        """
        if not tokens:
            return []
        listed = dict.fromkeys([*adapters, *([adapter] if adapter else [])])
        rank = max((rank_of_adapter(folder) for folder in listed), default=0)
        width = max(map(len, tokens)) + max_new_tokens
        library, requests = _import_vllm()
        try:
            self._start(library, chat, rank, width)
            greedy = library.SamplingParams(
                temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=list(chat.end_tokens), seed=0
            )
            request = None
            if adapter is not None:
                number = self._adapters.setdefault(adapter, len(self._adapters) + 1)
                request = requests.LoRARequest(adapter.name, number, str(adapter))
            outputs = self._model.generate(
                [{"prompt_token_ids": list(ids)} for ids in tokens],
                greedy,
                use_tqdm=False,
                lora_request=request,
            )
            return [list(output.outputs[0].token_ids) for output in outputs]
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            raise EngineError(
                f"vLLM cannot answer with {chat.name}{f' and the adapter {adapter.name}' if adapter else ''} "
                f"({type(error).__name__}: {quote_error(error, 300)}); use --engine own, or "
                "write the Edit into a checkpoint (vectomy apply) and evaluate that"
            ) from error

    def close(self) -> None:
        """Free what vLLM holds."""
        self._model = self._started = None
        return_freed_memory()

    def _start(self, library: Any, chat: ChatModel, rank: int, width: int) -> None:
        path = chat.checkpoint.path
        if self._started is not None:
            started, ranks, positions = self._started
            if started == path and rank <= ranks and width <= positions:
                return
            self.close()
        positions = max(width, min(FEWEST_POSITIONS, chat.context or FEWEST_POSITIONS))
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank} if rank else {}
        self._model = library.LLM(
            model=str(path),
            tokenizer=str(path),
            dtype=self.runtime.dtype,
            trust_remote_code=self.runtime.trust_remote_code,
            max_model_len=positions,
            seed=0,
            **lora,
            **_limit_memory(chat, self.runtime.dtype),
        )
        self._started = path, rank, positions


class AdapterConfig(BaseModel):
    """What of adapter_config.json decides whether vLLM computes the adapter."""

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_dora: bool = False
    bias: str = "none"
    lora_bias: bool = False
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None

    @property
    def rank(self) -> int:
        return max([self.r, *(self.rank_pattern or {}).values()])

    @property
    def scales(self) -> set[float]:
        """alpha / rank of all layers: vLLM knows only the usual one."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        named = {alphas.get(name, self.lora_alpha) / ranks.get(name, self.r) for name in {**ranks, **alphas}}
        return named | {self.lora_alpha / self.r}


def rank_of_adapter(folder: Path) -> int:
    """The max_lora_rank with which vLLM takes an adapter that PEFT or this project wrote.

    Raises:
        EditError: vLLM does not compute what the adapter says; with the reason.
    """
    stored = read_json(folder / "adapter_config.json")
    try:
        config = AdapterConfig.model_validate(stored)
    except ValidationError as error:
        wrong = error.errors()[0]
        kind = stored.get("peft_type") if isinstance(stored, dict) else None
        raise EditError(
            f"vLLM serves adapters of LoRA, and {folder / 'adapter_config.json'} describes none: its "
            f"peft_type is {kind!r}, and {'.'.join(map(str, wrong['loc'])) or 'the file'} is wrong "
            f"({wrong['msg']}); use --engine own, or merge the adapter into its model and evaluate that"
        ) from None
    faults = {
        "it keeps the lengths of rows (norm mode row), which is DoRA": config.use_dora,
        "it changes biases": config.bias != "none" or config.lora_bias,
        "it changes parameters that are no layer of their own, such as fused experts": bool(
            config.target_parameters
        ),
        "it holds whole layers (modules_to_save)": bool(config.modules_to_save),
        "its scale differs from layer to layer (alpha_pattern)": len(config.scales) > 1,
        f"its rank {config.rank} is above {RANKS[-1]}": config.rank > RANKS[-1],
    }
    if fault := next((fault for fault, present in faults.items() if present), None):
        raise EditError(
            f"vLLM cannot serve the adapter {folder.name} exactly: {fault}; use --engine own, or write it "
            "into a checkpoint (vectomy apply) and evaluate that"
        )
    return next(size for size in RANKS if size >= config.rank)


def _limit_memory(chat: ChatModel, dtype: str) -> dict[str, float]:
    """The share of a card that vLLM may take: what is free, less one more model, which measures
    what takes logits.

    Raises:
        EngineError: too little is free for vLLM to hold the model.
    """
    if not torch.cuda.is_available():
        return {}
    card = torch.device("cuda", torch.cuda.current_device())
    weights = loaded_bytes(chat.checkpoint, dtype, "cuda")
    total = torch.cuda.get_device_properties(card).total_memory
    usable = SHARE * available_memory(card) - weights
    if usable < SHARE * weights:
        raise EngineError(
            f"the card has too little free memory for {chat.name} in vLLM ({usable / 1e9:.1f} GB beside the "
            f"own model, whose weights take {weights / 1e9:.1f} GB); use --engine own, or serve it on "
            "another card (vllm serve) and give openai:URL#MODEL"
        )
    return {"gpu_memory_utilization": usable / total}


def _import_vllm() -> tuple[Any, Any]:
    """Raises EngineError if vLLM is not installed."""
    try:
        return importlib.import_module("vllm"), importlib.import_module("vllm.lora.request")
    except ImportError as error:
        raise EngineError(
            f"--engine vllm needs the package vllm ({error}): pip install vllm, or use --engine own"
        ) from None
