"""Pages from the templates in `compress/templates/report`. Autoescape is on: text from a file cannot become markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """A table cell with more than a text.

    Attributes:
        small: lines in small print below, each with its tone: "good", "bad", "open" or "".
        before: small print in front of the text.
        tag: a coloured label in front of the text, in `tone`.
        code: the text is set in a fixed-width font.
    """

    text: str
    small: tuple[tuple[str, str], ...] = ()
    before: str = ""
    tag: str = ""
    tone: str = ""
    code: bool = False


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """Rows in groups. Columns in `right` hold numbers; `above` and `note` are paragraphs around it."""

    head: Sequence[str]
    groups: Sequence[Sequence[Row]]
    right: frozenset[int] = frozenset()
    above: str = ""
    note: str = ""
    dense: bool = False


@dataclass(frozen=True)
class Chart:
    heading: str
    svg: Markup
    note: str = ""


def charts(*drawn: tuple[str, str, str]) -> list[Chart]:
    """Those of (heading, svg, note) that are not empty. The SVG is ours, its texts are escaped by `svg`."""
    return [Chart(heading, Markup(svg), note) for heading, svg, note in drawn if svg]


def render(template: str, **context: object) -> str:
    """A self-contained page: no script, nothing fetched."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("compress", "templates/report"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip


def tone(met: bool | None) -> str:
    """The colour of a state."""
    return "open" if met is None else "good" if met else "bad"
