"""Cuts a process and its children off the network, and notes who tried to reach it."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

CUT = """
import os, socket, sys, traceback

def refuse(what):
    def cut(*given, **named):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{sys.argv} {what} {given}\\n{''.join(traceback.format_stack(limit=8))}\\n")
        raise OSError("the network is cut")
    return cut

def outward(name):
    inner = getattr(socket.socket, name)
    def cut(self, *given):
        return inner(self, *given) if self.family == socket.AF_UNIX else refuse(name)(*given)
    setattr(socket.socket, name, cut)

for name in ("connect", "connect_ex", "sendto"):
    outward(name)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, refuse(name))
"""


def cut(folder: Path) -> dict[str, str]:
    """Environment variables under which every Python process is cut off; attempts are noted in `attempts(folder)`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(textwrap.dedent(CUT))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "NETWORK_LOG": str(folder / "attempts")}


def attempts(folder: Path) -> str:
    log = folder / "attempts"
    return log.read_text() if log.exists() else ""
