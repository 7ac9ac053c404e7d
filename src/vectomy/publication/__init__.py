"""What is published of an edit, and publishing it: parcel.py gathers the files, wording.py what the card says of them,
pushing.py checks and sends."""

from vectomy.publication.parcel import Parcel, pack
from vectomy.publication.pushing import Push, prepare, push, send

__all__ = ["Parcel", "Push", "pack", "prepare", "push", "send"]
