"""Renders `templates/` into self-contained HTML pages: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compress import atomic

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def write(path: Path, template: str, **context: object) -> Path:
    """Render `template` with `context` into the file `path`, and return the path."""
    return atomic.write(path, ENVIRONMENT.get_template(template).render(context))
