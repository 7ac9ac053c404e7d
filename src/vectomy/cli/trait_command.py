"""`vectomy traits`, and `vectomy run --trait`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import AsJson
from vectomy.core.errors import UsageError
from vectomy.data.trait_file import Trait, bundled_traits, load_trait, own_trait

if TYPE_CHECKING:
    from vectomy.workflows.trait_config import TraitRun

__all__ = ["TRAIT_OPTIONS", "asks_for_trait", "configure_trait", "register", "trait_options"]


def _option(help: str, metavar: str | None = None, panel: str = "Trait", **more: Any) -> Any:
    return typer.Option(help=help, metavar=metavar, show_default=False, rich_help_panel=panel, **more)


def _complete_trait(incomplete: str) -> list[str]:
    """The bundled traits that begin so; the shell completes files where there is none."""
    return [name for name in bundled_traits() if name.startswith(incomplete)]


TRAIT_OPTIONS: dict[str, Any] = {
    "trait": Annotated[
        str | None,
        _option(
            "Induce or remove a trait: a name (`vectomy traits`) or a file.",
            "NAME|FILE",
            autocompletion=_complete_trait,
        ),
    ],
    "operation": Annotated[
        Literal["induce", "remove"] | None,
        _option("Induce or remove the trait. [default: the trait's own operation]"),
    ],
    "form": Annotated[
        Literal["learned", "bias", "set-point", "amplify"] | None,
        _option("How the edit is made. [default: the trait's own form]"),
    ],
    "prompts": Annotated[
        str | None,
        _option("Prompts that the models answer: neutral ones. [default: the trait's own]", "SRC", "Prompts"),
    ],
}
SYSTEM = ("positive_system", "negative_system")
INTO_TRAIT = ("target_rate", "kl_budget")


def register(app: typer.Typer) -> None:
    app.command("traits", cls=SectionedCommand, rich_help_panel=JOB)(_traits)


def _traits(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRAIT]",
            help="One trait, with what changing it does to safety.",
            autocompletion=_complete_trait,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled traits, or show one and what changing it does to safety."""
    traits = [load_trait(item) for item in ([name] if name is not None else bundled_traits())]
    if as_json:
        typer.echo(
            json.dumps([trait.model_dump(mode="json") for trait in traits], indent=2, ensure_ascii=False)
        )
        return
    console = open_console()
    if name is not None:
        (trait,) = traits
        lines = [
            f"{trait.name}: {trait.description}",
            f"as it comes: {trait.operation}; told apart by {_tell_apart(trait)}",
            f"safety: {trait.safety}",
            f"change it: vectomy run MODEL --trait {name}",
        ]
        console.print("\n".join(lines), highlight=False, soft_wrap=True)
        return
    table = Table("trait", "as it comes", "what it is", box=None, pad_edge=False)
    for trait in traits:
        table.add_row(trait.name, trait.operation, f"{trait.description.split('. ')[0].removesuffix('.')}.")
    console.width = max(
        console.width, table.__rich_measure__(console, console.options.update(width=1000)).maximum
    )
    console.print(table, crop=False)
    console.print("what changing one does to safety: vectomy traits TRAIT", highlight=False, soft_wrap=True)


def _tell_apart(trait: Trait) -> str:
    if trait.recipe is not None:
        return f"prompt sets, recipe {trait.recipe}"
    return f"two contexts, scored by {trait.scorer.kind}"


def asks_for_trait(values: dict[str, Any]) -> bool:
    """Whether a trait is named: by its options, or by a system prompt alone.

    With prompts or a configuration file, the system prompts belong to the two prompt sets.
    """
    if any(values.get(name) is not None for name in TRAIT_OPTIONS):
        return True
    sets = any(values.get(name) is not None for name in ("positive", "negative", "config"))
    return not sets and any(values.get(name) is not None for name in SYSTEM)


def _trait(values: dict[str, Any], options: dict[str, Any]) -> Trait:
    changed: dict[str, Any] = {name: values.get(name) for name in ("operation", "form")} | {
        name: options.get(name) for name in INTO_TRAIT
    }
    if values.get("prompts") is not None:
        changed["prompts"] = {"source": values["prompts"]}
    if values.get("trait") is not None:
        trait = load_trait(values["trait"], **changed)
        if trait.recipe is None and any(options.get(name) is not None for name in SYSTEM):
            raise UsageError("--trait and --positive-system/--negative-system name two traits; give one")
        return trait
    if options.get("positive_system") is None:
        raise UsageError(
            "a trait is named by --trait NAME|FILE, or by --positive-system TEXT (and --negative-system TEXT)"
        )
    return own_trait(options["positive_system"], options.get("negative_system"), **changed)


def trait_options(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any] | None:
    """Of a trait by two prompt sets, the options of a run with its recipe; None for a trait by two
    contexts.
    """
    trait = _trait(values, options)
    if trait.recipe is None:
        return None
    if trait.operation == "induce" or values.get("form") is not None or values.get("prompts") is not None:
        raise UsageError(
            f"the trait '{trait.name}' is removed by the recipe {trait.recipe}, which does not take "
            "--operation induce, --form or --prompts; leave them out"
        )
    own = {
        side: value
        for side in ("positive", "negative", "keep")
        if (value := getattr(trait.prompts, side)) is not None
    }
    found = {"recipe": trait.recipe, **own, **options}
    if "positive" not in found:
        raise UsageError(
            f"the trait '{trait.name}' needs prompts that show it: give them with --positive SRC "
            f"({trait.description})"
        )
    return found


def configure_trait(model: str, values: dict[str, Any], options: dict[str, Any]) -> TraitRun:
    """The configuration of a trait by two contexts."""
    from vectomy.workflows.trait_config import make_trait_run

    if values.get("config"):
        raise UsageError("--config does not apply to a trait, which has a file of its own: --trait FILE")
    own = {name: value for name, value in options.items() if name not in (*INTO_TRAIT, *SYSTEM)}
    return make_trait_run(model, _trait(values, options), own)
