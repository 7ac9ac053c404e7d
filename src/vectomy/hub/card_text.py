"""The parts of a model card that depend on its kind: the lines that load it, and the safety warning
of an edit that no run measured.
"""

from __future__ import annotations

from vectomy.core.json_value import JsonObject
from vectomy.report.pages.model_card import Kind

__all__ = ["loading_lines", "unmeasured_warning"]


def loading_lines(kind: Kind, repo_id: str, base: str, names: list[str]) -> str:
    """The lines that load the published files, as a user types them."""
    if kind == "checkpoint":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")\n'
            f'model = AutoModelForCausalLM.from_pretrained("{repo_id}")'
        )
    if kind == "adapter":
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            f'model = PeftModel.from_pretrained(base, "{repo_id}")'
        )
    if kind == "edit":
        return (
            "import vectomy\nfrom huggingface_hub import hf_hub_download\n\n"
            f'edit = vectomy.Edit.load(hf_hub_download("{repo_id}", "edit.safetensors"))\n'
            "with edit.hooks(model):  # a transformers model of the same base; strength=0.5 for half of it\n"
            "    model.generate(**inputs)"
        )
    file = next((name for name in names if name.endswith(".gguf")), "model.gguf")
    return f"llama-cli --hf-repo {repo_id} --hf-file {file}"


def unmeasured_warning(summary: JsonObject) -> str:
    """The safety warning of an edit that no run measured."""
    behaviour = summary.get("behaviour")
    if behaviour == "refusal":
        return (
            "This edit is meant to change whether the model refuses. Its effect on refusals of harmful "
            "requests was not measured here. Assume that the edited model answers requests that its base "
            "declines, harmful ones included, and do not deploy it where people rely on the base's refusals."
        )
    named = f"the behaviour '{behaviour}'" if behaviour else "its base"
    return (
        f"This edit changes {named}; its other effects were not measured here. Treat the edited model as "
        "less safe than its base until its refusals of harmful requests have been measured."
    )
