"""Live models, and all that knows transformers: chat.py runs one, loading.py finds and loads it.

learning.py finds out what writes in a type that the table lacks. streamed.py runs one that is larger than memory, on weights.py; memory.py says which is larger. forced.py runs
answers that are given.
"""

from vectomy.model.batch import Batch
from vectomy.model.chat import ChatModel
from vectomy.model.forced import Example, Forced, force, packs_exactly, resume_at, resumes_exactly
from vectomy.model.greedy import shared_beginning
from vectomy.model.learning import learn
from vectomy.model.loading import (
    check_device,
    check_known,
    convert_gguf,
    fetch,
    is_local,
    load_model,
    stream_model,
    with_adapter,
)
from vectomy.model.memory import fits, walk_memory

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
