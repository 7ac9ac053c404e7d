"""Traits: behaviours as small files, induced or removed. `trait.py` loads no torch; `running.py` does the work."""

from vectomy.traits.trait import Trait, bundled_traits, load_trait, own_trait

__all__ = ["Trait", "bundled_traits", "load_trait", "own_trait"]
