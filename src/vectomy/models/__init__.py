"""Live models: everything here may import transformers.

- chat.py: a chat model on a device. chat_template.py: its template; prompt_checks.py: whether
  prompts reach it. head.py: its logits.
- decoding.py: how it answers. generation.py: the loop over rows, with kv_cache.py and
  packed_linear.py.
- served_model.py: a model behind a chat endpoint; vllm_engine.py: answers by vLLM.
- loading.py: finds, fetches and loads models. device_choice.py: where to; precision.py: the dtype
  they compute in; live_quantisation.py: weights quantised while they run.
- wrapped_model.py: takes a model that is loaded already, with saved_tensors.py.
- layerwise.py: runs a model that is larger than memory, with weights.py and block_pages.py;
  memory.py: what fits. model_pass.py: several passes together.
- teacher_forcing.py: runs given answers. recompute.py: their backward passes in less memory.
- probe_architecture.py: finds the writers of a model type that the table lacks.
- launched_ranks.py: the processes of a launcher, which share the work.
- demo.py: builds the demo model.
"""

from vectomy.core.absent_path import is_local
from vectomy.models.batch import Batch
from vectomy.models.chat import ChatModel
from vectomy.models.device_choice import check_device
from vectomy.models.final_parts import FinalPart, find_final_parts
from vectomy.models.generation import shared_beginning
from vectomy.models.launched_ranks import join_ranks
from vectomy.models.live_quantisation import explain_decoding, explain_divided, missing_quantiser
from vectomy.models.loading import (
    check_known,
    convert_gguf,
    fetch,
    load_layerwise,
    load_model,
    with_adapter,
)
from vectomy.models.memory import (
    available_memory,
    count_weight_bytes,
    fits,
    layerwise_memory,
    limit_memory,
    loaded_bytes,
    memory_for,
)
from vectomy.models.model_pass import ModelPass, run_passes
from vectomy.models.precision import cards_compute_bfloat16, describe_precision
from vectomy.models.probe_architecture import probe_architecture
from vectomy.models.prompt_checks import check_lengths, check_prompts, list_template_faults
from vectomy.models.recompute import count_saved_bytes, recompute_blocks
from vectomy.models.teacher_forcing import (
    Example,
    TeacherForcedBatch,
    pack_examples,
    packs_exactly,
    resume_at,
    resumes_exactly,
)
from vectomy.models.wrapped_model import require_chat, wrap

__all__ = [
    "Batch",
    "ChatModel",
    "Example",
    "FinalPart",
    "ModelPass",
    "TeacherForcedBatch",
    "available_memory",
    "cards_compute_bfloat16",
    "check_device",
    "check_known",
    "check_lengths",
    "check_prompts",
    "convert_gguf",
    "count_saved_bytes",
    "count_weight_bytes",
    "describe_precision",
    "explain_decoding",
    "explain_divided",
    "fetch",
    "find_final_parts",
    "fits",
    "is_local",
    "join_ranks",
    "layerwise_memory",
    "limit_memory",
    "list_template_faults",
    "load_layerwise",
    "load_model",
    "loaded_bytes",
    "memory_for",
    "missing_quantiser",
    "pack_examples",
    "packs_exactly",
    "probe_architecture",
    "recompute_blocks",
    "require_chat",
    "resume_at",
    "resumes_exactly",
    "run_passes",
    "shared_beginning",
    "with_adapter",
    "wrap",
]
