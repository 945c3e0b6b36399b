"""The images of a run with what the baseline and each file predict, from `drawings/`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.report.run_reader import Drawings


@dataclass(frozen=True)
class Image:
    """`url` has the content. `agreement`: with the baseline, as text; "" if there is none."""

    url: str
    agreement: str = ""


@dataclass(frozen=True)
class Images:
    """Rows of images, one per column: those drawn by the seed, and those with the largest disagreements."""

    columns: Sequence[str]
    drawn: Sequence[Sequence[Image]]
    worst: Sequence[Sequence[Image]]
    summary: str  # of the comparison; "" if nothing was compared


def images(folder: Path, record: Drawings) -> Images | None:
    """The images of a run folder; None if there are none, or a file is missing."""
    files = [*record.rows, *(each.files for each in record.worst)]
    paths = [[folder / "drawings" / Path(name).name for name in row] for row in files]
    if not paths or not all(path.is_file() for row in paths for path in row):
        return None
    blank = [("",) * len(row) for row in record.rows]
    captions = [*blank, *(tuple(_caption(value) for value in each.agreement) for each in record.worst)]
    rows = [
        [Image(_data_url(path.read_bytes()), caption) for path, caption in zip(*row, strict=False)]
        for row in zip(paths, captions, strict=True)
    ]
    return Images(record.columns, rows[: len(record.rows)], rows[len(record.rows) :], _summary(record))


def _caption(value: float | None) -> str:
    return "" if value is None else f"agreement {value:.2f}"


def _summary(record: Drawings) -> str:
    means = [f"{name} {value:.3f}" for name, value in zip(record.columns, record.agreement) if value is not None]
    if not means:
        return ""
    definition = f" Agreement: {record.definition}." if record.definition else ""
    return f"Mean agreement with the baseline on {record.compared} images: {', '.join(means)}.{definition}"


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
