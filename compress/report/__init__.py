"""Table, plots and page of a run: a pure function of the run folder, re-runnable alone."""

from __future__ import annotations

from compress.report.html import render
from compress.report.sweep import render_sweep
from compress.report.table import print_table

__all__ = ["print_table", "render", "render_sweep"]
