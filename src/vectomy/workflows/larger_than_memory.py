"""Whether a run reads its model block by block, and what it says then."""

from __future__ import annotations

from vectomy.checkpoint import Checkpoint
from vectomy.core.byte_count import write_bytes
from vectomy.core.config import Runtime
from vectomy.core.errors import PreflightError
from vectomy.core.ranks import current_ranks
from vectomy.models import loaded_bytes, memory_for
from vectomy.models.memory import SHARE, largest_block

__all__ = ["ANSWER_TOKENS", "TEACHER_FORCED", "explain_layerwise", "explain_too_large"]

# Tokens of the base's answers, each of which costs a read of the model: enough for the judge and
# for openings.
ANSWER_TOKENS = 16
TEACHER_FORCED = (
    "the model was read block by block, so the edited model's answers were not generated (each token would "
    "cost a read of the model); measured instead, teacher-forced: how much of their probability the base's "
    "own refusal openings keep, and KL on the base's own answers"
)
# The recipe that needs no more than blocks.
LAYERWISE_RECIPE = "gradient"


def explain_too_large(checkpoint: Checkpoint, runtime: Runtime, available: int | None = None) -> str | None:
    """Why a command that needs the whole model cannot run, in a sentence with the numbers; None if
    its weights fit into what is free.

    Args:
        available: free bytes; what is free where the model runs unless given.
    """
    needed = loaded_bytes(checkpoint, runtime.dtype, runtime.device, runtime.load_in)
    free = memory_for(runtime.device) if available is None else available
    if needed <= free:
        return None
    return (
        f"the model in {checkpoint.path} takes {write_bytes(needed)} of memory and {write_bytes(free)} are "
        "free, and this command needs it whole: use a larger machine or card (--device), --load-in 4bit, "
        "--dtype bfloat16 if it is loaded in float32, or a smaller model"
    )


def explain_layerwise(
    checkpoint: Checkpoint, recipe: str, runtime: Runtime, available: int | None = None
) -> str | None:
    """Why the model has to be read block by block, in a sentence with the numbers; None if it fits
    into memory.

    Args:
        available: free bytes; what is free where the model runs unless given.

    Raises:
        PreflightError: it does not fit, and the recipe needs it whole; or not even two of its
            blocks fit.
    """
    needed = loaded_bytes(checkpoint, runtime.dtype, runtime.device, runtime.load_in)
    own = memory_for(runtime.device) if available is None else available
    free = min(current_ranks().gather(own))
    if needed <= SHARE * free:
        return None
    limit = "" if runtime.max_memory is None else f" (--max-memory {runtime.max_memory})"
    numbers = (
        f"the model takes {write_bytes(needed)} of memory and {write_bytes(free)} are free{limit}, of which "
        f"weights may take {SHARE:.0%}"
    )
    if runtime.load_in is not None:
        smaller = "use --load-in 4bit, or leave it out" if runtime.load_in == "8bit" else "leave it out"
        raise PreflightError(
            f"with --load-in {runtime.load_in}, {numbers}; block by block a model is read in full "
            f"precision: {smaller}, or use a larger machine or a smaller model"
        )
    if recipe != LAYERWISE_RECIPE:
        raise PreflightError(
            f"{numbers}; the recipe {recipe} generates with the whole model for every candidate: use "
            f"--recipe {LAYERWISE_RECIPE}, which reads a model block by block, --load-in 4bit, "
            "--dtype bfloat16 if the model is loaded in float32, a larger machine or a smaller model"
        )
    least = round(2 * largest_block(checkpoint) * needed / checkpoint.bytes)
    # A limit of the user's own is kept as far as that goes.
    if least > free and runtime.max_memory is None:
        raise PreflightError(
            f"{numbers}; block by block it still takes {write_bytes(least)} for two blocks of weights, so "
            "that it can never fit: close other programs, use a larger machine or --device cpu if the card "
            "is the smaller one, or take a smaller model"
        )
    return (
        f"{numbers}: it is read block by block. The base answers with {ANSWER_TOKENS} tokens unless "
        "--answer-tokens says otherwise; edits are measured by teacher forcing, without generating"
    )
