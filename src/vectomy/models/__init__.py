"""Live models, and all that knows transformers: chat.py runs one, loading.py finds and loads it.

probe_architecture.py finds out what writes in a type that the table lacks. layerwise.py runs one that is larger than memory, on weights.py; memory.py says which is larger. teacher_forcing.py runs
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
    load_model,
    stream_model,
    with_adapter,
)
from vectomy.models.memory import fits, walk_memory
from vectomy.models.probe_architecture import learn
from vectomy.models.teacher_forcing import Example, Forced, force, packs_exactly, resume_at, resumes_exactly

__all__ = [
    "Batch",
    "ChatModel",
    "Example",
    "Forced",
    "check_device",
    "check_known",
    "convert_gguf",
    "fetch",
    "fits",
    "force",
    "is_local",
    "learn",
    "load_model",
    "packs_exactly",
    "resume_at",
    "resumes_exactly",
    "shared_beginning",
    "stream_model",
    "walk_memory",
    "with_adapter",
]
