"""The choices of `vectomy select --from-scores` on the published scores of Arditi et al.

    python benchmarks/published_choices.py refusal_direction/pipeline/runs

The folder is `pipeline/runs` of a checkout of github.com/andyrdt/refusal_direction: for each model
direction_evaluations.json (every score) and direction_metadata.json (the authors' choice). Exit
status 0: all five are reproduced; 1: one is not; 2: files are missing, and it says which.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAYERS = {
    "qwen-1_8b-chat": 24,
    "gemma-2b-it": 18,
    "yi-6b-chat": 32,
    "llama-2-7b-chat-hf": 32,
    "meta-llama-3-8b-instruct": 32,
}


def choose(scores: Path, layers: int) -> tuple[int, int]:
    words = ["select", "--from-scores", str(scores), "--layers", str(layers), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vectomy.cli", *words], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    return result["position"], result["layer"]


def main(runs: Path) -> int:
    missing, different = [], []
    for model, layers in LAYERS.items():
        scores = runs / model / "select_direction" / "direction_evaluations.json"
        published = runs / model / "direction_metadata.json"
        if not scores.is_file() or not published.is_file():
            missing.append(model)
            print(f"{model}: not checked, its score files are not in {runs}")
            continue
        wanted = json.loads(published.read_text(encoding="utf-8"))
        ours = choose(scores, layers)
        same = ours == (wanted["pos"], wanted["layer"])
        print(
            f"{model}: position {ours[0]}, layer {ours[1]}: "
            + ("as published" if same else f"published is position {wanted['pos']}, layer {wanted['layer']}")
        )
        if not same:
            different.append(model)
    print(f"{len(LAYERS) - len(missing) - len(different)} of {len(LAYERS)} published choices reproduced")
    return 1 if different else 2 if missing else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
