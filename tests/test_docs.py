"""The documentation's links lead somewhere, and its commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from compress.__main__ import COMMANDS
from compress.config import compose

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def commands(page: Path) -> list[list[str]]:
    """Command lines in code blocks: what follows `compress run` or `compress profile`."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] in (["compress", "run"], ["compress", "profile"]):
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if not link.startswith(("http:", "https:")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "index.md" or f"({page.relative_to(ROOT / 'docs')})" in index, page


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_compose(page: Path) -> None:
    for words in commands(page):
        overrides = [word for word in words[1:] if word != "-m"]
        if words[0] == "profile":
            overrides.insert(0, "recipe=profile")
        overrides = [re.sub(r"=([^\[,]+),[^\]]*$", r"=\1", word) if "-m" in words else word for word in overrides]
        assert compose(overrides).recipe_name


def test_the_readme_shows_commands_that_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(commands(ROOT / "README.md")) > 10
    assert set(re.findall(r"^compress (\w+)", text, re.M)) <= set(COMMANDS)
