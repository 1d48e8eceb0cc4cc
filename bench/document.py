"""Tables that a measurement writes into a page of docs/."""

from __future__ import annotations

from pathlib import Path


def write(page: Path, name: str, text: str, *, by: str) -> None:
    """Put `text` between the page's marks of that name; `by` is the command that does. Raises SystemExit where the page has no such marks."""
    begin, end = f"<!-- {name}: written by {by} -->", f"<!-- {name} ends -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page} has no {begin} … {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
