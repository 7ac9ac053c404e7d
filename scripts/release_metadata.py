"""Write the address of the repository that builds a release into its metadata: [project.urls] of
pyproject.toml, and absolute links in the README, whose relative ones lead nowhere on PyPI.

python scripts/release_metadata.py https://HOST/OWNER/NAME TAG
python scripts/release_metadata.py --check-tag TAG

For .github/workflows/release.yml; the two files are changed in place and not committed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A Markdown link or picture: the text, the target without its title.
LINK = re.compile(r"(?P<start>!?\[[^\]]*\]\()(?P<target>[^)\s]+)\)")
PICTURES = (".png", ".svg", ".jpg", ".gif")
MARK = "[project.scripts]\n"


def with_absolute_links(text: str, home: str, tag: str) -> str:
    """A page of the root folder whose links to files of the repository name it.

    Args:
        home: https://HOST/OWNER/NAME.
        tag: the branch or tag that the links lead to.
    """

    def absolute(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        kind = "raw" if target.partition("#")[0].lower().endswith(PICTURES) else "blob"
        return f"{match['start']}{home}/{kind}/{tag}/{target})"

    return LINK.sub(absolute, text)


def with_urls(text: str, home: str, tag: str) -> str:
    """pyproject.toml with [project.urls]."""
    addresses = {
        "Homepage": home,
        "Documentation": f"{home}/tree/{tag}/docs",
        "Issues": f"{home}/issues",
        "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
    }
    lines = "".join(f'{name} = "{address}"\n' for name, address in addresses.items())
    return text.replace(MARK, f"[project.urls]\n{lines}\n{MARK}", 1)


def main() -> None:
    project = ROOT / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    if sys.argv[1] == "--check-tag":
        version = tomllib.loads(text)["project"]["version"]
        if sys.argv[2] != f"v{version}":
            raise SystemExit(f"the tag is {sys.argv[2]}, and pyproject.toml says version {version}")
        return
    home, tag = sys.argv[1].rstrip("/"), sys.argv[2]
    readme = ROOT / "README.md"
    project.write_text(with_urls(text, home, tag), encoding="utf-8", newline="\n")
    page = with_absolute_links(readme.read_text(encoding="utf-8"), home, tag)
    readme.write_text(page, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
