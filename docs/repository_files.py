"""A hook of mkdocs: files of the repository outside docs/ that pages link to.

In the repository, pages link to such files by path (`../kernels.toml`). On the site, each such file stands under `repository/`, and the
project's own Markdown pages stand under `project/`. A link to a file that does not exist is left as it is, and ends the build.

The examples of standard.md have words for their tests on the fence's first line, and their claims right below it (tests/standard). The
site's Markdown takes neither, so the words are left out there, and the claims stand apart.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_EXAMPLE = re.compile(r"^```c[ \t]+\S.*$", re.M)
_CLAIM = re.compile(r"^```\n(?=> )", re.M)
_LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the project's pages."""
    for name in PROJECT:
        files.append(File.generated(config, f"project/{name}", content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Have links that lead out of docs/ lead to the site's copies, and examples be code."""
    markdown = _CLAIM.sub("```\n\n", _EXAMPLE.sub("```c", markdown))
    at = posixpath.dirname(page.file.src_uri)
    # Where the page stands in the repository.
    home = "" if at == "project" else posixpath.join("docs", at)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, match["path"]))
        if target.startswith("docs/"):
            site = target.removeprefix("docs/")
        elif target in PROJECT:
            site = f"project/{target}"
        elif (ROOT / target).is_file() and not target.startswith(".."):
            site = f"repository/{target}"
            if files.get_file_from_path(site) is None:
                files.append(File.generated(config, site, abs_src_path=str(ROOT / target)))
        else:
            return match[0]
        return f"]({posixpath.relpath(site, at or '.')}{match['anchor'] or ''})"

    return _LINK.sub(moved, markdown)
