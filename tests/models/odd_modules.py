"""Modules that a user may name by mistake, written to a folder on the import path."""

from __future__ import annotations

from pathlib import Path

SOURCES = {
    "odd_raises": "raise RuntimeError('no weights today')",
    "odd_exits": "import sys; sys.exit(3)",
    "odd_syntax": "class Net(:",
    "odd_prints": "print('hello')\nfrom tests.models.toy import Net",
    "odd_names": (
        "import os, math\nfrom os import system\nfrom torch import nn\nfrom functools import partial\n"
        "number = 3\nclass Plain: pass\nmade = nn.Linear(3, 3)\nbound = partial(nn.Linear, 3, 3)\n"
        "def exits(): raise SystemExit(3)\ndef gives(): return 3\n"
        "from tests.models.toy import Net\n"
        "class Exits(Net):\n    def forward(self, x): raise SystemExit(4)\n"
        "class Three(Net):\n    def forward(self, x): return super().forward(x).expand(3, 10)\n"
        "class Nothing(Net):\n    def forward(self, x): return super().forward(x) * float('nan')\n"
    ),
}


def write(folder: Path) -> None:
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
