"""Where a command works: in the typed folder, the usual one, its next number, or by a dialogue."""

from pathlib import Path

import pytest

from vectomy.cli.output_folder import work_in_folder
from vectomy.core.errors import FinishedRunError

TIER = "unit"

USUAL = Path("runs/model-arditi")


class Folders:
    """A command that finds finished results of other settings in some folders."""

    def __init__(self, *finished: str) -> None:
        self.finished = finished
        self.replaced: list[str] = []

    def __call__(self, folder: Path, overwrite: bool) -> str:
        if folder.name in self.finished and not overwrite:
            raise FinishedRunError(folder, "seed: 0 -> 1")
        if overwrite:
            self.replaced.append(folder.name)
        return f"in {folder.name}"


def test_the_usual_folder_is_left_for_its_next_number() -> None:
    assert work_in_folder(Folders(), None, USUAL) == ("in model-arditi", USUAL)
    work = Folders("model-arditi", "model-arditi-2")
    assert work_in_folder(work, None, USUAL) == ("in model-arditi-3", USUAL.with_name("model-arditi-3"))
    assert work.replaced == []


def test_a_typed_folder_is_refused_unless_a_flag_says_replace() -> None:
    out = Path("mine")
    with pytest.raises(FinishedRunError, match=r"mine holds.*seed: 0 -> 1.*--out.*--overwrite"):
        work_in_folder(Folders("mine"), out, USUAL)
    work = Folders("mine")
    assert work_in_folder(work, out, USUAL, overwrite=True) == ("in mine", out)
    assert work.replaced == ["mine"]


@pytest.mark.parametrize(
    ("answer", "result", "replaced"),
    [("new", "in mine-2", []), ("replace", "in mine", ["mine"]), ("stop", None, [])],
)
def test_a_person_at_the_terminal_decides(answer: str, result: str | None, replaced: list[str]) -> None:
    asked: list[tuple[str, Path]] = []

    def ask(error: FinishedRunError, following: Path) -> str:
        asked.append((error.differences, following))
        return answer

    work = Folders("mine")
    if result is None:
        with pytest.raises(FinishedRunError):
            work_in_folder(work, Path("mine"), USUAL, ask=ask)
    else:
        assert work_in_folder(work, Path("mine"), USUAL, ask=ask)[0] == result
    assert asked == [("seed: 0 -> 1", Path("mine-2"))]
    assert work.replaced == replaced
