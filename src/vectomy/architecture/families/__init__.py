"""Model families as data: what writes to the residual stream, under which names, and what lies in
between. spec.py says what a row holds; the tables are dense.py, post_norm.py, moe.py, hybrid.py,
multimodal.py and, for types that are refused with a reason, refused.py.

Drawn up with the probe (architecture/probe/) on tiny models of every type and read against the
modeling files of transformers 5.23; tests/architecture/test_families.py compares the two. To add a
type: a row in one of the tables. What a block holds beside its writers has to be named in
readers.py, or the model is refused.
"""

from vectomy.architecture.families.dense import DENSE
from vectomy.architecture.families.hybrid import HYBRID
from vectomy.architecture.families.moe import MOE_FAMILIES
from vectomy.architecture.families.multimodal import MULTIMODAL, wrap_text_model
from vectomy.architecture.families.post_norm import POST_NORM
from vectomy.architecture.families.refused import REFUSED
from vectomy.architecture.families.spec import BiasFlag, Family, Layout, Norm, WriterSpec

__all__ = ["FAMILIES", "REFUSED", "BiasFlag", "Family", "Layout", "Norm", "WriterSpec", "wrap_text_model"]

FAMILIES: dict[str, Family] = {**DENSE, **POST_NORM, **MOE_FAMILIES, **HYBRID, **MULTIMODAL}
"""By `model_type` of config.json. The probe adds the types of models that it has probed
(models/probe_architecture.py).
"""
