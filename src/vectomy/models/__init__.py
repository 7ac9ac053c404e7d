"""Live models, and all that knows transformers: chat.py runs one, loading.py finds and loads it.

probe_architecture.py finds out what writes in a type that the table lacks. layerwise.py runs one
that is larger than memory, on weights.py; memory.py says which is larger. teacher_forcing.py runs
answers that are given.
"""

from vectomy.models.batch import Batch
from vectomy.models.chat import ChatModel
from vectomy.models.generation import shared_beginning
from vectomy.models.loading import (
    check_device,
    check_known,
    convert_gguf,
    fetch,
    is_local,
    load_layerwise,
    load_model,
    with_adapter,
)
from vectomy.models.memory import fits, layerwise_memory
from vectomy.models.probe_architecture import probe_architecture
from vectomy.models.teacher_forcing import (
    Example,
    TeacherForcedBatch,
    pack_examples,
    packs_exactly,
    resume_at,
    resumes_exactly,
)

__all__ = [
    "Batch",
    "ChatModel",
    "Example",
    "TeacherForcedBatch",
    "check_device",
    "check_known",
    "convert_gguf",
    "fetch",
    "fits",
    "is_local",
    "layerwise_memory",
    "load_layerwise",
    "load_model",
    "pack_examples",
    "packs_exactly",
    "probe_architecture",
    "resume_at",
    "resumes_exactly",
    "shared_beginning",
    "with_adapter",
]
