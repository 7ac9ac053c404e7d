"""The random control keeps everything of an Edit except where its directions point."""

import pytest
import tiny_chat
import torch
from tiny import orthonormal, unit

from vectomy.core.errors import EditError
from vectomy.edits.controls import random_control
from vectomy.edits.edit import BaseModelRef, Edit, Operation

TIER = "chat"


def test_a_random_control_keeps_all_but_where_the_directions_point() -> None:
    chat = tiny_chat.chat()
    base, writers = BaseModelRef.of(chat.checkpoint), list(chat.architecture.writers)
    shared = Edit.from_directions(orthonormal(2), base, writers[:4], 0.7).operations
    # Directions of other layers at an angle to the shared ones, and an addition.
    own = Edit.from_directions(unit(0) + 0.5 * unit(9), base, writers[4:6], 1.5, "column").operations
    plain = Operation(
        writers[6].component, writers[6].layer, unit(3)[None], torch.tensor([0.2]), addition=2 * unit(5)
    )
    edit = Edit(base, (*shared, *own, plain))
    drawn = random_control(edit, 3)
    pairs = list(zip(edit.operations, drawn.operations, strict=True))
    for old, new in pairs:
        assert (old.sort_key, old.norm, old.strengths.tolist()) == (
            new.sort_key,
            new.norm,
            new.strengths.tolist(),
        )
        assert torch.allclose(new.basis @ new.basis.T, torch.eye(len(new.basis)), atol=1e-5)
    angles = [torch.cat([op.basis for op in one.operations]) for one in (edit, drawn)]
    assert torch.allclose(angles[0] @ angles[0].T, angles[1] @ angles[1].T, atol=1e-5)
    added = next(op for op in drawn.operations if op.addition is not None)
    assert added.addition is not None
    assert float(added.addition.norm()) == pytest.approx(2.0, rel=1e-5)
    # Elsewhere: in 32 dimensions two random planes are not the same.
    assert float((drawn.operations[0].basis @ edit.operations[0].basis.T).abs().max()) < 0.9
    assert drawn.to_bytes() == random_control(edit, 3).to_bytes()
    assert drawn.to_bytes() != random_control(edit, 4).to_bytes()


def test_an_edit_of_nothing_has_no_control() -> None:
    with pytest.raises(EditError, match="changes nothing"):
        random_control(Edit(BaseModelRef.of(tiny_chat.chat().checkpoint)), 0)
