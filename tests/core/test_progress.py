"""Work called from Python shows bars and lines in a notebook, and nothing elsewhere."""

import sys
import time
import types

import pytest
import tiny_chat

import vectomy
from vectomy.core.progress import automatic, in_notebook

TIER = "chat"


class ZMQInteractiveShell:
    """The name by which the shell of a kernel is known."""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = types.ModuleType("IPython")
    kernel.get_ipython = ZMQInteractiveShell
    monkeypatch.setitem(sys.modules, "IPython", kernel)


@pytest.mark.usefixtures("notebook")
def test_in_a_notebook_a_bar_says_what_is_done_and_how_far(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_notebook()
    chat = tiny_chat.chat()
    with automatic("reading", 2 << 20, "bytes") as update:
        # Bars are drawn ten times a second.
        time.sleep(0.2)
        update(1 << 20)
    bar = capsys.readouterr().err
    assert "reading" in bar
    assert "50%" in bar
    assert "1.05M/2.10M" in bar
    vectomy.collect(chat, tiny_chat.prompts(tiny_chat.NIGHT, 3))
    assert "collecting" in capsys.readouterr().err


@pytest.mark.usefixtures("notebook")
def test_a_run_in_a_notebook_is_not_silent(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"recipe": "arditi", "answer_tokens": 8, "layer_fraction": 1.0, "device": "cpu"}
    vectomy.run(str(tiny_chat.folder()), tmp_path / "run", until="baseline", **tiny_chat.sources(), **options)
    shown = capsys.readouterr()
    assert "base answers" in shown.err
    assert "layers" in shown.out


def test_elsewhere_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    chat = tiny_chat.chat()
    capsys.readouterr()
    assert not in_notebook()
    vectomy.collect(chat, tiny_chat.prompts(tiny_chat.NIGHT, 3))
    assert capsys.readouterr() == ("", "")
