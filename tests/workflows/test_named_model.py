"""A run stands for its checkpoint where a model is asked for, and for its Edit where an Edit is."""

from pathlib import Path

import pytest
import tiny_chat

from vectomy.core.errors import EditError, UsageError
from vectomy.core.run_folder import MARK
from vectomy.workflows.named_model import open_edit, open_model

TIER = "tiny"


def test_a_run_stands_for_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("{}")
    with pytest.raises(UsageError, match="has no checkpoint"):
        open_model(str(tmp_path))
    (tmp_path / "checkpoint").symlink_to(tiny_chat.folder())
    assert open_model(str(tmp_path)) == tmp_path / "checkpoint"


def test_what_is_no_model_or_edit_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="is an adapter"):
        open_model(str(tmp_path))
    with pytest.raises(EditError, match="holds no Edit"):
        open_edit(tmp_path)
