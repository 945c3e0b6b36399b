"""Checks of HTML pages."""

from __future__ import annotations

import re
import xml.dom.minidom
from html.parser import HTMLParser


class Balance(HTMLParser):
    """Checks that every element is closed, and collects the URLs that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        urls = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.fetched += [url for url in urls if not url.startswith("data:image/jpeg;base64,")]
        self.open += [] if tag in ("meta", "img") else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


HOSTILE = "</title></style><img src=x onerror=alert(1)>\"' onload=alert(1)"


class NoForeignMarkup(HTMLParser):
    """Fails on elements and attributes that the templates never write."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("img", "script", "link", "iframe", "object", "a")
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)


def check_hostile_text_is_escaped(page: str) -> None:
    NoForeignMarkup().feed(page)
    assert "</title></style>" not in page and "<img" not in page and "&lt;img" in page
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        xml.dom.minidom.parseString(chart)
