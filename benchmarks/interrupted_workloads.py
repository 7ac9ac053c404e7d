"""The commands that interruptions.py interrupts, on tiny models: what each writes, and how two
results are compared.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from hub_server import Hub


@dataclass
class Workload:
    """A command, the folder that it writes, and how its result is read."""

    name: str
    run: Callable[[Path], object]
    read: Callable[[Path], dict[str, str]]
    wanted: tuple[str, ...]
    """Files that two undisturbed runs must agree on."""
    inputs: tuple[Path, ...] = ()
    on_disk: bool = True
    """It writes to a folder (else to the Hub)."""
    seconds: float = 0.0
    whole: dict[str, str] = field(default_factory=dict)
    """Digests by file that two undisturbed runs agree on."""
    size: int = 0
    """Bytes of an undisturbed run's folder."""
    calls: dict[str, int] = field(default_factory=dict)
    """How often an undisturbed run makes each of CALLS, without those that it never makes."""


def digest_folder(out: Path) -> dict[str, str]:
    """Hash of each file; of an evaluation without its seconds and costs."""
    result = {}
    for path in sorted(out.rglob("*")):
        # A stage's record and a cached measurement hold their seconds.
        if path.is_file() and path.parent.name not in ("stages", "cache"):
            data = path.read_bytes()
            if path.name == "evaluation.json":
                value = json.loads(data)
                for measured in ("seconds", "costs"):
                    value.pop(measured, None)
                data = json.dumps(value, sort_keys=True).encode()
            result[path.relative_to(out).as_posix()] = hashlib.sha256(data).hexdigest()
    return result


def digest_inputs(workload: Workload) -> dict[str, str]:
    return {
        f"{path}/{name}": value for path in workload.inputs for name, value in digest_folder(path).items()
    }


def build_bake_bases(path: Path) -> tuple[Path, ...]:
    """Plain, experts, quantised, tied in one file, and tied in several."""
    from hostile.weight_bases import build_bases
    from tiny import build, unit

    from vectomy.edits.edit import Edit

    build_bases(path)
    bases = sorted(path.iterdir())
    folder = build(path / "tied" / "in", "mistral", tied=True, sharded=True).folder
    Edit.ablation(folder, unit()).save(path / "tied" / "edit.safetensors")
    return (*bases, path / "tied")


def build_workloads(hub: Hub, root: Path) -> list[Workload]:
    import healed
    import tiny_chat
    import tiny_evaluation
    import tiny_style
    from published import finished
    from tiny import orthonormal

    import vectomy
    from vectomy.core.evaluation_config import parse_evaluation
    from vectomy.data.trait_file import load_trait
    from vectomy.edits.edit import Edit
    from vectomy.healing.heal_config import parse_heal
    from vectomy.workflows.evaluate.evaluation import evaluate_models
    from vectomy.workflows.heal.heal_model import heal_model
    from vectomy.workflows.run import run
    from vectomy.workflows.trait_config import make_trait_run

    chat = tiny_chat.folder()
    small = {"device": "cpu", "answer_tokens": 8, "n_search": 4, "n_test": 4, "steps": 6}
    run_options = {**tiny_chat.sources(), **small, "complete": True}

    def search(out: Path) -> None:
        run(str(chat), out, **run_options)

    places = tiny_evaluation.places()
    evaluation = parse_evaluation(
        {
            "subjects": [places["tiny"], f"{places['edit']}@0.5,1", places["baked"]],
            "prompts": [places["night"], places["day"]],
            **tiny_evaluation.QUICK,
        }
    )

    def evaluate(out: Path) -> None:
        evaluate_models(evaluation, out)

    day, night = tiny_chat.texts(tiny_chat.DAY), tiny_chat.texts(tiny_chat.NIGHT)
    files = {"prompts": day[:40], "negative_test": day[40:50], "positive_test": night[:10]}
    for name, texts in files.items():
        (root / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    healing = parse_heal(
        {
            **healed.QUICK,
            **{name: str(root / f"{name}.json") for name in files},
            "preferences": "own",
            "own_tokens": 8,
            "answer_tokens": 8,
            "objective": "sft",
            "epochs": 2.0,
            "micro_batch": 4,
            "save_steps": 4,
        }
    )
    damage = Edit.ablation(chat, orthonormal(8), about={"behaviour": "refusal"})

    def heal(out: Path) -> None:
        heal_model(str(chat), out, healing, edit=damage)

    style, trait = tiny_style.folder(), load_trait(str(tiny_style.trait_file()))
    trait_options = {**small, "dtype": "float32", "n_fit": 24, "n_search": 6, "bake": True}

    def induce(out: Path) -> None:
        run(make_trait_run(str(style), trait, trait_options), out)

    result = [
        Workload(
            "run", search, digest_folder, ("edit.safetensors", "scores.json", "completions.jsonl"), (chat,)
        ),
        Workload("evaluate", evaluate, digest_folder, ("evaluation.json", "completions.jsonl"), (chat,)),
        Workload("heal", heal, digest_folder, ("checkpoint/model.safetensors", "completions.jsonl"), (chat,)),
        Workload("trait", induce, digest_folder, ("edit.safetensors", "completions.jsonl"), (style,)),
    ]
    for base in build_bake_bases(root / "bases"):
        edit = Edit.load(base / "edit.safetensors")
        bake = partial(lambda edit, base, out: vectomy.bake(edit, base / "in", out), edit, base)
        result.append(Workload("bake", bake, digest_folder, ("config.json",), (base,)))
    product = finished()

    def push(out: Path) -> None:
        vectomy.push(product, f"me/{out.name}")

    def in_hub(out: Path) -> dict[str, str]:
        stored: Mapping[str, bytes] = hub.files(f"me/{out.name}") if f"me/{out.name}" in hub.repos else {}
        return {name: hashlib.sha256(data).hexdigest() for name, data in stored.items()}

    result.append(Workload("push", push, in_hub, ("model.safetensors",), (product,), on_disk=False))
    return result
