"""Loading time and memory of data sets of 100,000 images, the first time and afterwards.

    python scripts/benchmarks/data_at_scale.py FOLDER [--images 100000] [--json_mb 500] [--pixels IDX_GZ ...] [--run]

Generates in FOLDER, unless they exist, the same images as a YOLO data set, a COCO data set, a Pascal VOC data set and
folders of classes. 70 % are PNG files of 28 px, 30 % are JPEG files of 256 px cut from rendered farm scenes.
--pixels names the image files of Fashion-MNIST (idx3-ubyte.gz, for example from Debian's dataset-fashion-mnist), whose
garments become the PNG files; without it they are noise. Every data set is loaded in fresh processes: without the index
of earlier runs, and twice with it. The page cache of the operating system is not dropped: a first pass over a cold disk
takes longer. --json_mb is the size of a further COCO file, with polygons, that is read alone; 0 skips it. --run also
prunes an untrained YOLO26n with the YOLO data and fine-tunes it for one step of 16 images, twice: the time from the
command to its end.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
import yaml

from compress import data
from compress.config import DataConfig
from compress.data import coco
from compress.examples.field_scenes import CLASSES, render
from compress.host import host

SCENES = 60  # rendered; the JPEG files are random sections of them, each with its own brightness
NAMES = [*CLASSES, "garment"]
LIMITS = {"first": 60.0, "again": 5.0, "rss_gb": 1.5, "json_rss_gb": 1.5}
FORMATS = {"yolo": "yolo/data.yaml", "coco": "coco", "voc": "voc", "image_folder": "classes"}


def main() -> int:
    parser = common.parser(__doc__, images=100_000, json_mb=500)
    parser.add_argument("folder", type=Path, help="where the data is, or will be generated")
    parser.add_argument("--pixels", type=Path, nargs="*", default=[], help="idx3-ubyte.gz files with 28x28 images")
    parser.add_argument("--only", choices=[*FORMATS, "json"], nargs="*", default=[*FORMATS, "json"])
    parser.add_argument("--run", action="store_true", help="also prune and fine-tune with the YOLO data")
    parser.add_argument("--load", choices=[*FORMATS, "json"], help="load one data set in this process, print one row")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(measured(options.folder, options.load)))
        return 0
    generate(options.folder, options.images, options.pixels)
    if options.json_mb and "json" in options.only:
        write_large_json(options.folder / "large.json", options.json_mb * 10**6)
    good = True
    print(f"{host().cpu}, {host().threads} CPUs, {options.images:,} images; first, second and third load (CPU time)")
    for name in [name for name in FORMATS if name in options.only]:
        with tempfile.TemporaryDirectory() as index:  # the index is kept in the working directory
            rows = [load_in_own_process(options.folder, name, Path(index)) for _ in range(3)]
        peak = max(row["rss_gb"] for row in rows)
        met = rows[0]["seconds"] <= LIMITS["first"] and rows[2]["seconds"] <= LIMITS["again"]
        met = met and peak <= LIMITS["rss_gb"]
        times = ", ".join(f"{row['seconds']:.1f} ({row['cpu_seconds']:.1f})" for row in rows)
        print(f"{name:13}{times} s, at most {peak:.2f} GB resident: {common.met(met)}", flush=True)
        good = good and met
    if options.json_mb and "json" in options.only:
        with tempfile.TemporaryDirectory() as index:
            row = load_in_own_process(options.folder, "json", Path(index))
        met = row["rss_gb"] <= LIMITS["json_rss_gb"]
        print(f"{'COCO JSON':13}{row['seconds']:.1f} s, {row['size_mb']:.0f} MB, {row['annotations']:,} annotations, "
              f"at most {row['rss_gb']:.2f} GB resident: {common.met(met)}")  # fmt: skip
        good = good and met
    if options.run:
        runs = run_twice(options.folder / FORMATS["yolo"])
        print("run with one training step: " + ", again: ".join(f"{t:.1f} s, at most {rss:.2f} GB" for t, rss in runs))
    return 0 if good else 1


def run_twice(listing: Path) -> list[tuple[float, float]]:
    """(seconds, GB of the largest process resident) of two runs, the second with the first one's index."""
    command = [
        sys.executable, "-m", "compress", "recipe=custom", "model=yolo26n", "model.weights=null", "model.imgsz=256",
        "data=yolo", f"data.path={listing.resolve()}", "data.validation_images=100", "force=true", "prune=global_l2",
        "stages=[prune,finetune]", "budget.flops=50%", "finetune.images=16", "cache=false",
    ]  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            began = time.perf_counter()
            done = subprocess.run(command, cwd=folder, env=os.environ, stdout=sys.stderr)
            if done.returncode not in (0, 1, 3):  # 3: the verdict is undetermined, as of every untrained network
                raise SystemExit(done.returncode)
            seconds = time.perf_counter() - began
            rows.append((seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9))
    return rows


def load_in_own_process(folder: Path, name: str, index: Path) -> dict[str, Any]:
    here = Path.cwd()
    script, folder = str(Path(__file__).resolve()), folder.resolve()
    os.chdir(index)
    try:
        return json.loads(common.in_own_process(script, [str(folder), "--load", name]).splitlines()[-1])
    finally:
        os.chdir(here)


def measured(folder: Path, name: str) -> dict[str, Any]:
    """Seconds of one load, imports excluded, and the largest resident size of the process."""
    row: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    if name == "json":
        content = coco.read(folder / "large.json")
        row = {"annotations": len(content.boxes), "size_mb": (folder / "large.json").stat().st_size / 1e6}
    else:
        result = data.load(DataConfig(name=name, path=str(folder / FORMATS[name])), 256, 3, 0)
        row = {"images": len(result.train) + len(result.calibration) + len(result.validation)}
    row["seconds"], row["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu
    row["rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return row


# --- generated data -------------------------------------------------------------------------------------------------


def generate(folder: Path, count: int, pixels: list[Path]) -> None:
    """Writes all formats; the image files are hard links to each other."""
    marker = folder / f"{count}.complete"
    if marker.exists():
        return
    for name in ("yolo", "coco", "voc", "classes"):
        shutil.rmtree(folder / name, ignore_errors=True)
    rng = np.random.default_rng(0)
    splits = {"train": range(count * 9 // 10), "val": range(count * 9 // 10, count)}
    files = encoded(count, pixels, rng)
    for split, indices in splits.items():
        for path in ("yolo/images", "yolo/labels", "coco"):
            (folder / path / split).mkdir(parents=True)
        for path in ("coco/annotations", "voc/JPEGImages", "voc/Annotations", "voc/ImageSets/Main"):
            (folder / path).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (folder / "classes" / split / name).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in indices:
            suffix, pixels_file, (width, height), cls = next(files)
            name = f"{index:06d}"
            boxes = random_boxes(rng, cls, width, height)
            image = folder / "yolo/images" / split / f"{name}{suffix}"
            image.write_bytes(pixels_file)
            for other in (f"coco/{split}", "voc/JPEGImages", f"classes/{split}/{NAMES[cls]}"):
                os.link(image, folder / other / image.name)
            (folder / "yolo/labels" / split / f"{name}.txt").write_text(yolo_label(boxes, width, height))
            (folder / "voc/Annotations" / f"{name}.xml").write_text(voc_label(boxes, width, height))
            images.append({"id": index, "file_name": image.name, "width": width, "height": height})
            for c, x, y, w, h in boxes.tolist():
                annotations.append(
                    {"id": index * 100 + len(annotations) % 100, "image_id": index, "category_id": c + 1,
                     "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                )  # fmt: skip
        listed = [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": listed}
        (folder / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
        (folder / f"voc/ImageSets/Main/{split}.txt").write_text("".join(f"{index:06d}\n" for index in indices))
    listing = {"path": ".", "train": "images/train", "val": "images/val", "names": NAMES}
    (folder / "yolo/data.yaml").write_text(yaml.safe_dump(listing))
    marker.touch()


Encoded = tuple[str, bytes, tuple[int, int], int]  # suffix, file content, size and class


def encoded(count: int, pixels: list[Path], rng: np.random.Generator) -> Iterator[Encoded]:
    """The files of `count` different images, in random order of the two kinds."""
    scenes = [render("train", index, 288)[0] for index in range(SCENES)]
    garments = [read_idx(path) for path in pixels]
    small = np.concatenate(garments) if garments else rng.integers(0, 256, (count, 28, 28), np.uint8)
    used = 0
    for is_scene in rng.random(count) < 0.3:
        if is_scene or used == len(small):
            cls, (y, x) = int(rng.integers(len(CLASSES))), rng.integers(33, size=2)
            section = scenes[rng.integers(len(scenes))][y : y + 256, x : x + 256]
            image = cv2.convertScaleAbs(section, alpha=rng.uniform(0.6, 1.3))
            image[:8, :8] = rng.integers(0, 256, (8, 8, 3))  # no two images are equal
            yield ".jpg", cv2.imencode(".jpg", image)[1].tobytes(), (256, 256), cls
        else:
            yield ".png", cv2.imencode(".png", small[used])[1].tobytes(), (28, 28), len(CLASSES)
            used += 1


def read_idx(path: Path) -> np.ndarray:
    """Images of an idx3-ubyte.gz file, uint8 (n, h, w)."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", 3, offset=4)
    return np.frombuffer(content, np.uint8, offset=16).reshape(shape)


def random_boxes(rng: np.random.Generator, cls: int, width: int, height: int) -> np.ndarray:
    """int (n, 5): class, left, top, width, height in pixels. One box of a garment, 1 to 9 of a scene."""
    count = int(rng.integers(1, 10)) if cls < len(CLASSES) else 1
    size = rng.integers(4, (width // 2, height // 2), (count, 2))
    corner = (rng.random((count, 2)) * ((width, height) - size)).astype(int)
    classes = np.r_[cls, rng.integers(len(CLASSES), size=count - 1)]
    return np.column_stack([classes, corner, size])


def yolo_label(boxes: np.ndarray, width: int, height: int) -> str:
    rows = ((c, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height) for c, x, y, w, h in boxes.tolist())
    return "".join("{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in rows)


def voc_label(boxes: np.ndarray, width: int, height: int) -> str:
    objects = "".join(
        f"<object><name>{NAMES[c]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for c, x, y, w, h in boxes.tolist()
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>\n"


def write_large_json(path: Path, size: int) -> None:
    """A COCO file of `size` bytes with polygons of 40 points, 5 annotations per image."""
    if path.exists() and abs(path.stat().st_size - size) < size // 50:
        return
    polygon = [round(value, 2) for value in np.random.default_rng(0).uniform(0, 500, 80).tolist()]
    example = {"id": 10**6, "image_id": 10**6, "category_id": 1, "bbox": [100.25, 100.25, 50.5, 60.5], "area": 3055.25,
               "iscrowd": 0, "segmentation": [polygon]}  # fmt: skip
    count = size // (len(json.dumps(example)) + 20)
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {}, "images": [')
        images = ({"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(count // 5 + 1))
        file.write(", ".join(map(json.dumps, images)))
        file.write('], "annotations": [')
        for index in range(count):
            row = {**example, "id": index, "image_id": index // 5}
            file.write((", " if index else "") + json.dumps(row))
        file.write('], "categories": [{"id": 1, "name": "thing"}]}')


if __name__ == "__main__":
    sys.exit(common.run(main))
