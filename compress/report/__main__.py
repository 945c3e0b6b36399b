"""`python -m compress.report RUN`, `compare A B …`, `add RUN bench.json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from compress.errors import Parser, UserError
from compress.report import formatting
from compress.report.bench_results import add, calibrate
from compress.report.run_comparison import compare
from compress.report.run_page import render
from compress.report.sweep_page import render_sweep, sweep_table
from compress.report.sweep_reader import is_sweep
from compress.report.terminal_table import print_table

USAGE = """python -m compress.report RUN              write RUN/report.html again and print the table
       python -m compress.report compare A B …    compare runs in one table
       python -m compress.report add RUN BENCH    add a device measurement (JSON of the bench kit) and judge again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a `UserError`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["compare"]:
            print(compare(_parse_paths("compare", words[1:], "RUN …")))
        elif words[:1] == ["add"]:
            _add(*_parse_paths("add", words[1:], "RUN", "BENCH"))
        else:
            _show(*_parse_paths("", words, "RUN"))
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse_paths(command: str, words: Sequence[str], *names: str) -> list[Path]:
    """One path per name; a name that ends in an ellipsis takes one or more."""
    parser = Parser(prog=f"python -m compress.report {command}".strip(), usage=USAGE)
    for name in names:
        parser.add_argument(name, nargs="+" if name.endswith("…") else 1, type=Path)
    return [path for paths in vars(parser.parse_args(words)).values() for path in paths]


def _add(run: Path, bench: Path) -> None:
    row, verdict = add(run, bench)
    outcome = "the run did not finish and was not judged" if verdict is None else "the run was judged again"
    print(f"added {row.target} {row.precision}, {formatting.device(row)}; {outcome}")
    if path := calibrate(run, row):
        print(f"predictions for {path.parent.name} use it from now on (`compress devices list`): {path}")
    _show(run)


def _show(folder: Path) -> None:
    if is_sweep(folder):
        print(sweep_table(folder))
        print(render_sweep(folder))
        return
    print_table(folder)
    print(render(folder))


if __name__ == "__main__":
    sys.exit(main())
