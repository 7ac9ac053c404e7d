"""How much of the residual stream lies along directions: the largest |r . x| / |x|."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.checkpoint import Checkpoint, ModelSource
from vectomy.core.byte_count import write_bytes
from vectomy.core.config import Runtime
from vectomy.core.errors import ActivationError, ModelError
from vectomy.core.progress import Progress, silent
from vectomy.hooks.capture import capture
from vectomy.models import ChatModel, load_layerwise, load_model, loaded_bytes, memory_for
from vectomy.models.memory import SHARE

__all__ = ["TEXTS", "TEXT_TOKENS", "projections", "shares_along"]

# Random texts, and tokens of each, on which a stream is measured unless prompts are given.
TEXTS, TEXT_TOKENS = 8, 48


def shares_along(
    stream: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "*n d_model"]
) -> Float[Tensor, "*batch"]:
    """|r . x| / |x| of each vector x, the largest over the directions r (one vector, or n rows).

    0 for x = 0; NaN for a vector with NaN or infinite values.
    """
    x = stream.float()
    rows = basis.to(x)
    along = (x @ rows).abs() if rows.ndim == 1 else (x @ rows.T).abs().amax(-1)
    return along / torch.linalg.vector_norm(x, dim=-1).clamp_min(torch.finfo(x.dtype).tiny)


@torch.inference_mode()
def projections(
    checkpoint: ModelSource,
    basis: Float[Tensor, "n d_model"],
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> tuple[list[float], str]:
    """The largest |r . x| / |x| over directions and tokens, of the stream x that enters the first
    block and leaves each one; float32, block by block. With it, in words, on what it was measured.

    Args:
        tokens: prompts as token ids to run (else 8 random texts of 48 tokens, from `seed`). Texts
            are cut at the positions of the model, which is said.
        trust_remote_code: run Python code that the folder contains.

    Raises:
        ActivationError: the stream has NaN or infinite values.
        ModelError: the model cannot be run here (packed weights, say).
    """
    opened = Checkpoint.of(checkpoint)
    runtime = Runtime(device=device, dtype="float32", trust_remote_code=trust_remote_code)
    chat = _open_chat(opened, runtime)
    layers = chat.architecture.n_layers
    texts = tokens or _random_texts(chat.architecture.vocab, seed)
    what = (
        f"{len(tokens)} given prompts"
        if tokens
        else f"{TEXTS} random texts of {TEXT_TOKENS} tokens (seed {seed})"
    )
    longest = max(map(len, texts))
    cut = chat.context is not None and longest > chat.context
    how = f"{what}{f', cut at its {chat.context} positions' if cut else ''}, float32"
    texts = [row[: chat.context] for row in texts]
    largest = torch.zeros(layers + 1)
    batches = list(chat.batches(texts, 4096))
    with (
        progress("measuring", layers * len(texts), "layers of texts") as update,
        chat.iter_layers(batches) as sweeps,
    ):
        for swept, passed in sweeps:
            sites = {
                layer: (["resid_pre", "resid_post"] if layer == 0 else ["resid_post"]) for layer in swept
            }
            with capture(chat.model, ["resid_pre", "resid_post"], layers=swept) as stream:
                for batch in passed:
                    mask = batch.attention_mask.bool()
                    for (site, layer), value in stream.items():
                        if site in sites[layer]:
                            point = 0 if site == "resid_pre" else layer + 1
                            shares = shares_along(value, basis)[mask].cpu()
                            # Of two numbers torch keeps NaN; Python's max keeps either.
                            largest[point] = torch.maximum(largest[point], shares.max())
                            _check_finite(largest[point], point)
                    update(len(swept) * len(batch.rows))
    return largest.tolist(), how


def _check_finite(share: Tensor, point: int) -> None:
    if not bool(share.isfinite()):
        where = "entering the first block" if point == 0 else f"leaving layer {point - 1}"
        raise ActivationError(f"the residual stream has NaN or infinite values, {where}")


def _random_texts(vocab: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = torch.randint(
        min(8, vocab // 2), vocab, (TEXTS, TEXT_TOKENS), generator=generator
    ).tolist()
    return rows


def _open_chat(checkpoint: Checkpoint, runtime: Runtime) -> ChatModel:
    """Block by block; whole where its blocks cannot be read apart (shared weights), if it fits."""
    chosen = runtime.model_copy(update={"dtype": "float32"})
    try:
        return load_layerwise(checkpoint.path, runtime=chosen, tokenizer=False)
    except ModelError as error:
        needed, free = loaded_bytes(checkpoint, "float32", runtime.device), memory_for(runtime.device)
        if needed > SHARE * free:
            raise ModelError(
                f"{error}; whole it takes {write_bytes(needed)} in float32, and {write_bytes(free)} are free"
            ) from None
        try:
            return load_model(checkpoint.path, runtime=chosen, tokenizer=False)
        except ModelError:
            raise error from None
