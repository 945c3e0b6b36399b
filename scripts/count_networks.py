"""Counts the operators of the networks in `compress/devices/published_latency.csv` and writes them to
`compress/devices/published_networks.csv`.

    python scripts/count_networks.py [FILE]

Run it after adding rows of a new network to the table. The networks are built without weights, with the 80 classes of
COCO.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from compress import targets
from compress.config import ExportConfig, ModelConfig
from compress.devices import graph_operators, operators, published_latency
from compress.models import build

CLASSES = tuple(f"class {index}" for index in range(80))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=operators.PUBLISHED, help="output file")
    rows = [row for rows in published_latency.rows().values() for row in rows]
    operators.write(networks({row["model"]: int(row["imgsz"]) for row in rows}), parser.parse_args().file)
    return 0


def networks(sizes: dict[str, int]) -> Iterator[tuple[str, list[operators.Operator]]]:
    """(network, operators) of each of {network: pixels}, of the graph that is exported for ONNX Runtime."""
    for name, imgsz in sizes.items():
        model = build(ModelConfig(name=name, imgsz=imgsz), CLASSES)
        with tempfile.TemporaryDirectory() as folder:
            graph = targets.get("onnxruntime").convert(model, Path(folder), ExportConfig())
            yield name, graph_operators.read(onnx.load(graph.path))


if __name__ == "__main__":
    sys.exit(main())
