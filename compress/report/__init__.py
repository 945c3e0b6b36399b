"""Terminal table, plots and HTML page of a run, made from the files of its folder alone."""

from __future__ import annotations

from compress.report.run_page import render
from compress.report.sweep_page import render_sweep
from compress.report.terminal_table import print_table

__all__ = ["print_table", "render", "render_sweep"]
