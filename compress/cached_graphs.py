"""Model files in the cache: graphs that were converted, quantized or packaged before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import atomic, user_code
from compress.cache import Cache
from compress.capabilities import Checkpointable, Model
from compress.host import host, versions
from compress.product import Graph

RECORD = "graphs.json"  # the graphs, and what else `make` returned
FILES = "files"

Made = tuple[Sequence[Graph], Any]  # graphs below the folder, and JSON-like values


def fetch(
    cache: Cache, stage: str, parts: Mapping[str, Any], make: Callable[[Path], Made], folder: Path,
    usable: Callable[[Any], bool] = lambda _: True,
) -> tuple[tuple[Graph, ...], Any, bool]:  # fmt: skip
    """Returns what `make(folder)` makes, or made before of the same inputs, and whether it came from the cache. The
    files are copied into `folder`, so that the cache may be pruned meanwhile.

    Args:
        parts: all inputs, JSON-like, except for this machine, its packages and the user's own code, which are added.
        make: writes graphs below its folder, whose name is that of `folder`. Its exceptions are raised.
        usable: whether the values that `make` returned before are still good; if not, it is called again.
    """

    def make_and_record(entry: Path) -> None:
        files = entry / FILES / folder.name
        shutil.rmtree(files, ignore_errors=True)  # of an interrupted call
        files.mkdir(parents=True)
        graphs, values = make(files)
        record = {"graphs": [graph.as_dict(files) for graph in graphs], "values": values}
        atomic.write(entry / RECORD, json.dumps(record))

    def record_of(entry: Path) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((entry / RECORD).read_text())
        return record

    inputs = {**parts, **environment(), "folder": folder.name}
    entry, cached = cache.fetch(stage, inputs, make_and_record, lambda entry: usable(record_of(entry)["values"]))
    record = record_of(entry)
    shutil.copytree(entry / FILES / folder.name, folder, dirs_exist_ok=True)
    return tuple(Graph.from_dict(each, folder) for each in record["graphs"]), record["values"], cached


def environment() -> dict[str, Any]:
    """What results depend on beside their inputs: this machine, its packages, and the user's own code."""
    return {"host": host().as_dict(), "versions": versions(), "code": user_code.digests()}


def model_key(model: Model) -> dict[str, Any]:
    """What the files exported from a model depend on."""
    constructor = model.constructor() if isinstance(model, Checkpointable) else None
    described = {"imgsz": model.imgsz, "channels": model.channels, "classes": model.classes, "task": model.task.name}
    return {"model": model.identity(), "constructor": constructor, **described, "metadata": model.metadata()}
