"""Writes scenes to disk as a YOLO data set. A marker file shows that a split is complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from compress import atomic
from compress.examples.field_scenes.image_file import POSE_CLASSES, WRITERS
from compress.examples.field_scenes.scene import CLASSES, GENERATOR_VERSION, SPLITS

CALIBRATION_IMAGES = 512
SHAPES = ("segment", "pose", "obb")  # tasks with labels of their own, in labels_<task>/
WORKER = "compress.examples.field_scenes.worker"


def _write_scenes(what: str, folder: Path, split: str, count: int, imgsz: int, workers: int) -> Iterator[None]:
    """Writes `what`, a key of WRITERS, of each scene and yields after it. Raises OSError if one cannot be written."""
    if workers <= 1:
        for index in range(count):
            WRITERS[what](index, str(folder), split, imgsz)
            yield
        return
    # Workers are separate interpreters: forking a process with torch or OpenCV threads can hang, and multiprocessing
    # imports the user's script again in each worker, which without a main guard would start further workers.
    reading, writing = os.pipe()
    running: list[subprocess.Popen[bytes]] = []
    try:
        with os.fdopen(reading) as results:
            try:
                for first in range(workers):
                    numbers = [str(number) for number in (count, imgsz, first, workers)]
                    command = [sys.executable, "-m", WORKER, str(folder), split, *numbers, what]
                    running.append(subprocess.Popen(command, stdout=writing, env=_environment()))
            finally:
                os.close(writing)  # the workers have copies; the pipe closes when the last worker ends
            for line in results:
                if error := json.loads(line):
                    raise OSError(*error)
                yield
        if failed := [worker.returncode for worker in running if worker.wait()]:
            raise RuntimeError(f"a process that draws field scenes ended with exit status {failed[0]}, see its output")
    finally:
        for worker in running:
            worker.kill()
            worker.wait()


def _environment() -> dict[str, str]:
    """The environment of this process and its import path, which a script may have changed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def write_split(folder: Path, split: str, count: int, imgsz: int, workers: int = 2) -> None:
    """Writes ``images/<split>/000000.jpg`` and ``labels/<split>/000000.txt`` (class cx cy w h, normalised)."""
    for kind in ("images", "labels"):
        Path(folder, kind, split).mkdir(parents=True, exist_ok=True)
    _write("image", folder, split, count, imgsz, workers)


def write_shapes(folder: Path, split: str, count: int, imgsz: int, workers: int = 2) -> None:
    """Writes ``labels_<task>/<split>/000000.txt`` for the tasks in SHAPES."""
    for task in SHAPES:
        Path(folder, f"labels_{task}", split).mkdir(parents=True, exist_ok=True)
    _write("shapes", folder, split, count, imgsz, workers)


def _write(what: str, folder: Path, split: str, count: int, imgsz: int, workers: int) -> None:
    workers = workers if count >= 64 else 1  # for few images, starting processes takes longer than drawing
    scenes = _write_scenes(what, Path(folder), split, count, imgsz, workers)
    for _ in tqdm(scenes, total=count, desc=f"field scenes: {split}", unit=what, disable=None):
        pass


def _write_lists(folder: Path, splits: Sequence[str], counts: Mapping[str, int]) -> None:
    """Writes data.yaml, pose.yaml, and calibration.txt if there is a training split."""
    keys = {"train": "train", "val": "validation", "test": "validation_large"}
    lines = ["path: ."] + [f"{key}: images/{split}" for key, split in keys.items() if split in splits]
    names = [f"  {k}: {name}" for k, name in enumerate(CLASSES)]
    keypoints = ["kpt_shape: [4, 3]  # front, right, rear, left", "flip_idx: [0, 3, 2, 1]"]
    atomic.write(folder / "data.yaml", "\n".join([*lines, "names:", *names]) + "\n")  # another run may be reading it
    atomic.write(folder / "pose.yaml", "\n".join([*lines, *keypoints, "names:", *names[:POSE_CLASSES]]) + "\n")
    if "train" in splits:
        rng = np.random.default_rng([GENERATOR_VERSION, SPLITS["train"][0], 512])
        indices = np.sort(rng.permutation(counts["train"])[: min(CALIBRATION_IMAGES, counts["train"] // 3)])
        atomic.write(folder / "calibration.txt", "".join(f"images/train/{i:06d}.jpg\n" for i in indices))


def prepare(
    root: Path,
    imgsz: int = 256,
    splits: Sequence[str] = ("train", "validation"),
    counts: Mapping[str, int] | None = None,
    workers: int = 2,
    shapes: bool = False,
) -> Path:
    """Returns the data set's folder in ``root``, after generating the splits that are not complete yet.

    The folder's name contains the generator's version, the image size and the number of images of all splits, so
    different data never use the same folder.

    Args:
        counts: number of images of a split, where it differs from ``SPLITS``.
        shapes: also write the labels of the tasks in SHAPES.
    """
    sizes = {split: (counts or {}).get(split, size) for split, (_, size) in SPLITS.items()}
    name = "-".join(str(size) for size in sizes.values())
    folder = Path(root) / f"field_scenes-v{GENERATOR_VERSION}-{imgsz}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        _complete(folder, split, ("images", "labels"), write_split, sizes[split], imgsz, workers)
        if shapes:
            kinds = [f"labels_{task}" for task in SHAPES]
            _complete(folder, f"{split}.shapes", kinds, write_shapes, sizes[split], imgsz, workers)
    present = [split for split in SPLITS if (folder / f"{split}.complete").exists()]
    _write_lists(folder, present, sizes)
    return folder


def _complete(
    folder: Path, name: str, kinds: Sequence[str], write: Callable[..., None], count: int, imgsz: int, workers: int
) -> None:
    """Writes a part of a split unless its marker file, written last, exists."""
    if (marker := folder / f"{name}.complete").exists():
        return
    split = name.removesuffix(".shapes")
    for kind in kinds:  # remains of an interrupted run
        shutil.rmtree(folder / kind / split, ignore_errors=True)
    write(folder, split, count, imgsz, workers)
    temporary = folder / f"{name}.writing"
    temporary.write_text(f"{count}\n")
    temporary.rename(marker)
