"""Scenes on disk, as an ordinary YOLO data set; a split is complete when its marker stands beside it."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from compress import atomic
from compress.data.field_scenes.scene import CLASSES, GENERATOR_VERSION, SPLITS, render

CALIBRATION_IMAGES = 512


def _write_image(index: int, folder: str, split: str, imgsz: int) -> int:
    """Write one image and its label file; returns the number of boxes."""
    image, rows = render(split, index, imgsz)
    quality = int(np.random.default_rng([GENERATOR_VERSION, SPLITS[split][0], index, 1]).integers(75, 96))
    path = f"{folder}/images/{split}/{index:06d}.jpg"
    if not cv2.imwrite(path, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]):
        raise OSError(f"cannot write {path}")
    lines = []
    for label, x1, y1, x2, y2 in rows.tolist():
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        lines.append(f"{int(label)} " + " ".join(f"{value / imgsz:.6f}" for value in values) + "\n")
    with open(f"{folder}/labels/{split}/{index:06d}.txt", "w") as file:
        file.writelines(lines)
    return len(rows)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores


def _each(task: Callable[[int], int], count: int, workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(task, range(count))
        return
    # spawn, since forking a process that already runs torch or OpenCV threads can hang
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
        yield from pool.imap(task, range(count), chunksize=32)


def write_split(folder: Path, split: str, count: int, imgsz: int, workers: int = 2) -> None:
    """Write ``images/<split>/000000.jpg`` and ``labels/<split>/000000.txt`` (class cx cy w h, normalised)."""
    for kind in ("images", "labels"):
        Path(folder, kind, split).mkdir(parents=True, exist_ok=True)
    task = partial(_write_image, folder=str(folder), split=split, imgsz=imgsz)
    workers = workers if count >= 64 else 1  # a few images are quicker than starting processes
    for _ in tqdm(_each(task, count, workers), total=count, desc=f"field scenes: {split}", unit="image", disable=None):
        pass


def _write_lists(folder: Path, splits: Sequence[str], counts: Mapping[str, int]) -> None:
    """data.yaml, and calibration.txt where there is a training split."""
    keys = {"train": "train", "val": "validation", "test": "validation_large"}
    lines = ["path: ."] + [f"{key}: images/{split}" for key, split in keys.items() if split in splits]
    lines += ["names:"] + [f"  {k}: {name}" for k, name in enumerate(CLASSES)]
    atomic.write(folder / "data.yaml", "\n".join(lines) + "\n")  # another run may be reading it
    if "train" in splits:
        rng = np.random.default_rng([GENERATOR_VERSION, SPLITS["train"][0], 512])
        chosen = np.sort(rng.permutation(counts["train"])[: min(CALIBRATION_IMAGES, counts["train"] // 3)])
        atomic.write(folder / "calibration.txt", "".join(f"images/train/{i:06d}.jpg\n" for i in chosen))


def prepare(
    root: Path,
    imgsz: int = 256,
    splits: Sequence[str] = ("train", "validation"),
    counts: Mapping[str, int] | None = None,
    workers: int = 2,
) -> Path:
    """The data set's folder under ``root``, made if it is not there; splits already complete are reused.

    ``counts`` replaces the number of images of the splits it names. The folder's name holds the generator's
    version, the image size and the counts of all splits, so different data never share a folder.
    """
    sizes = {split: (counts or {}).get(split, size) for split, (_, size) in SPLITS.items()}
    name = "-".join(str(size) for size in sizes.values())
    folder = Path(root) / f"field_scenes-v{GENERATOR_VERSION}-{imgsz}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        marker = folder / f"{split}.complete"
        if marker.exists():
            continue
        for kind in ("images", "labels"):  # what an interrupted run left
            shutil.rmtree(folder / kind / split, ignore_errors=True)
        write_split(folder, split, sizes[split], imgsz, workers)
        started = folder / f"{split}.writing"
        started.write_text(f"{sizes[split]}\n")
        started.rename(marker)
    present = [split for split in SPLITS if (folder / f"{split}.complete").exists()]
    _write_lists(folder, present, sizes)
    return folder
