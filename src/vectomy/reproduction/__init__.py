"""Rebuild a published edit from its base and compare: claim.py reads what was recorded, compared.py holds two folders against each
other, search.py does the search again, reproducing.py joins them."""

from vectomy.reproduction.compared import Difference
from vectomy.reproduction.reproducing import Reproduction, reproduce

__all__ = ["Difference", "Reproduction", "reproduce"]
