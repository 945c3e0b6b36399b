"""The documentation: links lead somewhere, the README stays short, and every command composes."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.config import compose
from compress.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("compress/*/README.md"))]
README_LINES = 150  # fewer than this
COMMAND = re.compile(r"(?:(?:python|torchrun .*) -m compress|^ *compress run) ")

FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """Fragments that GitHub generates for the headings of a page."""
    result: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = LINK.sub("]", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = next(
            count for count in itertools.count() if f"{slug}-{count}" not in result and (count or slug not in result)
        )
        result.add(f"{slug}-{number}" if number else slug)
    return result


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file or anchor does not exist."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, fragment = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (fragment and fragment not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def commands(text: str) -> Iterator[list[str]]:
    """Overrides of every `python -m compress` command in the code blocks of a page; one list per point of a sweep."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if COMMAND.search(line) is None:
                continue
            words = shlex.split(COMMAND.split(line, maxsplit=1)[1], comments=True)
            overrides = [word for word in words if not word.startswith("-")]
            if overrides and "=" in overrides[0]:  # not a subcommand such as `cache list`
                yield from points(overrides) if "-m" in words else [overrides]


def points(overrides: list[str]) -> Iterator[list[str]]:
    """Every combination of the comma-separated values of a sweep."""
    choices = []
    for override in overrides:
        key, _, value = override.partition("=")
        choices.append([override] if value.startswith("[") else [f"{key}={each}" for each in value.split(",")])
    yield from (list(point) for point in itertools.product(*choices))


COMMANDS = sorted({tuple(words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {
        (index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))
    }
    assert {page for page in PAGES if (ROOT / "docs") in page.parents} - {index} == listed


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_composes(words: tuple[str, ...]) -> None:
    compose(list(words))


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 20
    assert ("recipe=drone_nano", "budget.flops=null", "prune.ratio=0.3") in COMMANDS  # alone, and a point of a sweep


def test_what_is_broken_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three\n[a](#one-two-three) [b](page.md) [c](none.md) [d](#none) [e](page.md#none) [f](https://x/y)\n"
        "```\n[g](none.md)\n# no heading\n"
        "python -m compress recipe=digits stages=[] \\\n    nosuch.key=1  # comment\n```\n"
    )
    assert broken_links(page) == ["none.md", "#none", "page.md#none"]
    assert anchors("# A\n## A\n") == {"a", "a-1"}
    [words] = commands(page.read_text())
    assert words == ["recipe=digits", "stages=[]", "nosuch.key=1"]
    with pytest.raises(UserError, match="nosuch"):
        compose(words)
