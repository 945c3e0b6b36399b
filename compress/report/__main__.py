"""`python -m compress.report RUN`, `compare A B …`, `add RUN bench.json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from compress.errors import Parser, UserError
from compress.report.bench import add
from compress.report.compare import compare
from compress.report.html import render
from compress.report.sweep import is_sweep, render_sweep, sweep_table
from compress.report.table import print_table

USAGE = """python -m compress.report RUN              write RUN/report.html again and print the table
       python -m compress.report compare A B …    runs side by side
       python -m compress.report add RUN BENCH    take a bench kit's JSON from a device in, and judge again"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for the user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["compare"]:
            print(compare(_paths("compare", given[1:], "RUN …")))
        elif given[:1] == ["add"]:
            _add(*_paths("add", given[1:], "RUN", "BENCH"))
        else:
            _show(*_paths("", given, "RUN"))
    except UserError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def _paths(command: str, given: Sequence[str], *names: str) -> list[Path]:
    """One path for each name; a name that ends in an ellipsis takes one or more."""
    parser = Parser(prog=f"python -m compress.report {command}".strip(), usage=USAGE)
    for name in names:
        parser.add_argument(name, nargs="+" if name.endswith("…") else 1, type=Path)
    return [path for paths in vars(parser.parse_args(given)).values() for path in paths]


def _add(run: Path, bench: Path) -> None:
    row, verdict = add(run, bench)
    judged = "not judged: it did not finish" if verdict is None else "judged again"
    print(f"added {row['target']} {row['precision']}, {row['latency_ms']['device']}; the run was {judged}")
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
