"""`vectomy traits`, and `vectomy run --trait`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vectomy.core.errors import UsageError
from vectomy.data.trait_file import Trait, bundled_traits, load_trait, own_trait

if TYPE_CHECKING:
    from vectomy.workflows.trait_config import TraitRun

__all__ = ["TRAIT_OPTIONS", "asks_for_trait", "register", "trait_options", "trait_run"]


def _option(name: str, help: str, metavar: str) -> Any:
    return typer.Option(name, help=help, metavar=metavar, show_default=False)


TRAIT_OPTIONS: dict[str, Any] = {
    "trait": Annotated[
        str | None,
        _option(
            "--trait",
            "Induce or remove a trait: a name (`vectomy traits`) or a file of your own.",
            "NAME|FILE",
        ),
    ],
    "system_positive": Annotated[
        str | None,
        _option("--system-positive", "A trait of your own: the system prompt that shows it.", "TEXT"),
    ],
    "system_negative": Annotated[
        str | None, _option("--system-negative", "The system prompt that does not (absent: none).", "TEXT")
    ],
    "operation": Annotated[
        str | None,
        _option("--operation", "Traits: induce or remove, other than the trait's own.", "induce|remove"),
    ],
    "form": Annotated[str | None, _option("--form", "Traits: learned, bias, set-point or amplify.", "FORM")],
    "prompts": Annotated[str | None, _option("--prompts", "Traits: neutral prompts of your own.", "SRC")],
}
INTO_TRAIT = ("target_rate", "kl_budget")


def register(app: typer.Typer) -> None:
    app.command("traits")(_traits)


def _traits(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.", show_default=False)
    ] = False,
) -> None:
    """The traits that come along: what each is, and what changing it does to safety."""
    traits = [load_trait(name) for name in bundled_traits()]
    if as_json:
        typer.echo(
            json.dumps([trait.model_dump(mode="json") for trait in traits], indent=2, ensure_ascii=False)
        )
        return
    table = Table("trait", "as it comes", "told apart by", "what it is, and what changing it does to safety")
    for trait in traits:
        how = f"prompt sets, recipe {trait.recipe}" if trait.recipe else f"two contexts, {trait.scorer.kind}"
        table.add_row(trait.name, trait.operation, how, f"{trait.description} {trait.safety}")
    Console().print(table)


def asks_for_trait(values: dict[str, Any]) -> bool:
    return any(values.get(name) is not None for name in TRAIT_OPTIONS)


def _trait(values: dict[str, Any], options: dict[str, Any]) -> Trait:
    changed: dict[str, Any] = {name: values.get(name) for name in ("operation", "form")} | {
        name: options.get(name) for name in INTO_TRAIT
    }
    if values.get("prompts") is not None:
        changed["prompts"] = {"source": values["prompts"]}
    if values.get("trait") is not None:
        if values.get("system_positive") is not None or values.get("system_negative") is not None:
            raise UsageError("--trait and --system-positive/--system-negative name two traits; give one")
        return load_trait(values["trait"], **changed)
    if values.get("system_positive") is None:
        raise UsageError(
            "a trait is named by --trait NAME|FILE, or by --system-positive TEXT (and --system-negative TEXT)"
        )
    return own_trait(values["system_positive"], values.get("system_negative"), **changed)


def trait_options(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any] | None:
    """Of a trait by two prompt sets, the options of a run with its recipe; None for a trait by two
    contexts.
    """
    trait = _trait(values, options)
    if trait.recipe is None:
        return None
    if trait.operation == "induce" or values.get("form") is not None or values.get("prompts") is not None:
        raise UsageError(
            f"the trait '{trait.name}' is removed by the recipe {trait.recipe}; --operation induce, --form and --prompts mean nothing to it"
        )
    own = {
        side: value
        for side in ("positive", "negative", "keep")
        if (value := getattr(trait.prompts, side)) is not None
    }
    found = {"recipe": trait.recipe, **own, **options}
    if "positive" not in found:
        raise UsageError(
            f"the trait '{trait.name}' needs prompts that show it: give them with --positive SRC ({trait.description})"
        )
    return found


def trait_run(model: str, values: dict[str, Any], options: dict[str, Any]) -> TraitRun:
    """The configuration of a trait by two contexts."""
    from vectomy.workflows.trait_config import make_trait_run

    if values.get("config"):
        raise UsageError("--config is a run's by a recipe; a trait is a file of its own: --trait FILE")
    own = {name: value for name, value in options.items() if name not in INTO_TRAIT}
    return make_trait_run(model, _trait(values, options), own)
