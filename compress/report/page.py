"""HTML building blocks. Every text that comes from a file goes through `text`, so it cannot become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from compress.report.style import CSS


def text(value: object) -> str:
    return escape(str(value))


def document(title: str, body: Iterable[str]) -> str:
    """One self-contained page: no script, nothing fetched."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{CSS}</style></head><body><main>"
    )
    return head + "\n".join(part for part in body if part) + "</main></body></html>\n"


def section(title: str, *body: str) -> str:
    inside = "".join(body)
    return f"<section><h2>{text(title)}</h2>{inside}</section>" if inside else ""


def folded(title: str, *body: str) -> str:
    """A section that is closed until asked for."""
    inside = "".join(body)
    return f"<section><details><summary>{text(title)}</summary>{inside}</details></section>" if inside else ""


def pair(*charts: tuple[str, str, str]) -> str:
    """Charts side by side where there is room: (heading, svg, note)."""
    shown = [f"<div><h3>{text(heading)}</h3>{chart}{note_line(note)}</div>" for heading, chart, note in charts if chart]
    return f'<div class="two">{"".join(shown)}</div>' if shown else ""


def note_line(note: str) -> str:
    return f'<p class="note">{text(note)}</p>' if note else ""


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """`rows` are HTML cells, already escaped; columns in `right` are numbers."""
    style = [' class="r"' if i in right else "" for i in range(len(head))]
    top = "".join(f"<th{s}>{text(h)}</th>" for h, s in zip(head, style, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{c}</td>" for c, s in zip(row, style, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def tag(met: bool | None, word: str) -> str:
    return f'<span class="tag {tone(met)}">{text(word)}</span>'


def tone(met: bool | None) -> str:
    return {True: "good", False: "bad"}.get(met, "open") if met is not None else "open"
