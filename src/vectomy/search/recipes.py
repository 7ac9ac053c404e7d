"""The table of recipes. A new recipe is a module of its own and one line here."""

from __future__ import annotations

from vectomy.search.arditi import select_arditi
from vectomy.search.article import select_article
from vectomy.search.cosmic import select_cosmic
from vectomy.search.gradient.gradient_recipe import select_gradient
from vectomy.search.recipe import Recipe
from vectomy.search.tpe.tpe_recipe import select_tpe

__all__ = ["RECIPES", "SEARCHES"]

RECIPES: dict[str, Recipe] = {
    "article": select_article,
    "arditi": select_arditi,
    "cosmic": select_cosmic,
    "gradient": select_gradient,
    "selective": select_gradient,
    "tpe": select_tpe,
}

# The recipes that store a frontier of Edits in the run folder.
SEARCHES = ("gradient", "selective", "tpe")
