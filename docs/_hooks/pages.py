"""What MkDocs does to each page before it renders it: links to files outside of docs/, and tabs of a single page."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]*)(?:#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks.pages")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write links that leave docs/ as plain paths of the repository, since the site has no such pages."""
    root = Path(config.docs_dir).parent
    if page.parent is None:
        # A page that is a tab of its own has no neighbours to list beside it.
        page.meta.setdefault("hide", ["navigation"])

    def plain(match: re.Match[str]) -> str:
        text, target = match.groups()
        inner = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if inner.startswith("docs/"):
            return match.group()
        if not (root / inner).exists():
            _log.warning("%s links to %s, which is not in the repository", page.file.src_uri, inner)
        return f"`{inner}`" if text.strip("`") == inner else f"{text} (`{inner}`)"

    return _OUTSIDE.sub(plain, markdown)
