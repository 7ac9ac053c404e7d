"""The example task on the demo model through `vectomy evaluate`: it knows answers, and an edit that
ruins it is seen to.
"""

from pathlib import Path

import vectomy
from vectomy.models.demo import demo_folder
from vectomy.search.estimators import direction_from

TIER = "demo"


KEY = "example/common_knowledge"


def test_common_knowledge_is_there_and_goes_with_an_edit_far_too_strong(tmp_path: Path) -> None:
    direction = direction_from("random:0", 576)
    vectomy.Edit.ablation(demo_folder(), direction, 3.0).save(tmp_path / "edit.safetensors")
    found = vectomy.evaluate_models(
        ["demo", f"{tmp_path / 'edit.safetensors'}@0,1"],
        tmp_path / "out",
        prompts=("bundled:harmless",),
        limit=2,
        answer_tokens=4,
        damage_prompts=2,
        budgets=(),
        tool_calls=False,
        controls=False,
        dtype="auto",
        tasks=("example",),
    )
    rows = {name: held["capability"][KEY] for name, held in found["results"].items()}
    # One in four by chance.
    assert rows["demo"]["value"] - 3 * rows["demo"]["stderr"] > 0.25
    assert (rows["edit@0"]["difference"], rows["edit@0"]["difference_stderr"]) == (0.0, 0.0)
    assert rows["edit@1"]["difference"] < -1.96 * rows["edit@1"]["difference_stderr"] < 0
