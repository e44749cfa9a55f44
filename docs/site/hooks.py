"""What is on the site: docs/, and the READMEs of other folders; links to what is not on it become plain names."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
    "bootstrap/README.md": "public-node.md",
    "contracts/README.md": "move-package.md",
}
"""Pages that lie outside docs/, and where they are on the site."""
ORDER = [
    ("Start", ["index.md", "quickstart.md", "readme.md"]),
    ("Operate", ["roles.md", "operating.md", "terminal.md", "dashboard.md", "observability.md", "state.md"]),
    ("Public nodes", ["public-node.md", "nat.md", "operating/ledger.md"]),
    ("Build", ["library.md", "examples.md", "gateway.md"]),
    ("Understand", ["architecture.md", "protocol.md", "contract.md", "move-package.md", "engine.md", "security.md"]),
    ("Look up", ["errors.md", "benchmarks.md", "changelog.md", "contributing.md"]),
]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Whatever is in docs/ and has no place in `ORDER` comes last."""
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    there |= set(ELSEWHERE.values())
    placed = [page for _, pages in ORDER for page in pages]
    config.nav = [{title: [page for page in pages if page in there]} for title, pages in ORDER]
    more = sorted(there - set(placed))
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    here = page.file.src_uri
    origin = {place: source for source, place in ELSEWHERE.items()}.get(here, f"docs/{here}")

    def relinked(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, hash_, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if wanted in ELSEWHERE:
            place = ELSEWHERE[wanted]
        elif wanted.startswith("docs/") and (ROOT / wanted).is_file():
            place = wanted.removeprefix("docs/")
        else:
            return text if image else f"{text} (`{wanted}`)" if wanted not in text else text
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{hash_}{anchor})"

    return LINK.sub(relinked, markdown)
