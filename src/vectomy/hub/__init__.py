"""The Hugging Face Hub as a place to publish to and to compare with: client.py has the token and
says what went wrong, leaks.py looks for what must not leave this machine, upload.py sends files,
download.py fetches a published repository, licence.py reads the licence of a base, frontmatter.py
what a card says of itself.
"""

from vectomy.hub.client import is_repo_id
from vectomy.hub.download import download
from vectomy.hub.frontmatter import frontmatter
from vectomy.hub.leaks import Leak, check_leaks, find_leaks
from vectomy.hub.licence import licence_in, licence_of
from vectomy.hub.upload import Destination, Item, Sent, look, upload

__all__ = [
    "Destination",
    "Item",
    "Leak",
    "Sent",
    "check_leaks",
    "download",
    "find_leaks",
    "frontmatter",
    "is_repo_id",
    "licence_in",
    "licence_of",
    "look",
    "upload",
]
