from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from compress.report import page, tables
from compress.report.sweep_charts import Charts
from tests.report.pages import HOSTILE, check_hostile_text_is_escaped

SWEEP: dict[str, Any] = {
    **{"points": [], "counts": {}, "choice": None, "chosen": None, "finished": False, "commands": []},
    **{"drawn": Charts([], [], []), "table_data": tables.Table([], [])},
}


def test_text_is_escaped(tmp_path: Path) -> None:
    path = page.write(tmp_path / "x.html", "sweep.html.j2", **SWEEP, name=HOSTILE, conventions=HOSTILE)
    assert path == tmp_path / "x.html"
    check_hostile_text_is_escaped(path.read_text())


def test_a_value_that_a_template_needs_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="name"):
        page.write(tmp_path / "x.html", "sweep.html.j2", **SWEEP)
    assert not (tmp_path / "x.html").exists()
