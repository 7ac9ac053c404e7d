"""Publishing to the Hugging Face Hub and reading from it: client.py has the client and its errors,
leaks.py finds secrets, package.py collects the files, upload.py sends them, download.py fetches a
repository, licence.py reads the licence of a base, frontmatter.py the metadata of a card.
"""

from vectomy.hub.client import is_repo_id
from vectomy.hub.download import download
from vectomy.hub.frontmatter import frontmatter
from vectomy.hub.leaks import Leak, check_leaks, find_leaks
from vectomy.hub.licence import licence_in, licence_of
from vectomy.hub.upload import Destination, Item, Sent, check_name, look, upload

__all__ = [
    "Destination",
    "Item",
    "Leak",
    "Sent",
    "check_leaks",
    "check_name",
    "download",
    "find_leaks",
    "frontmatter",
    "is_repo_id",
    "licence_in",
    "licence_of",
    "look",
    "upload",
]
