"""`data=coco data.path=…`: boxes, masks or keypoints in COCO's JSON format.

The files are `annotations/instances_train*.json`, `…_val*.json` and `…_test*.json` (for pose `person_keypoints_…`),
with images in `train*/` or `images/train*/`, or Roboflow's `train/_annotations.coco.json`, `valid/…` and `test/…`
beside the images.
`data.annotations.train`, `.val` and `.test` name other files, relative to `data.path` or to the working directory.
Without `train` the data can only be used for evaluation.

Categories become classes in ascending order of their ids. Crowds (`iscrowd`) are left out, as Ultralytics does, in
training and in evaluation. Boxes are clipped to the image, as torchvision's reference does; those without area are left
out, and for pose objects of which no keypoint is labelled. The log counts them. Images of the JSON without annotations
contain no objects; other files are ignored.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.boxes import check_size, to_labels
from compress.data.coco_shapes import keypoints, polygons, pose_of
from compress.data.dataset import DataSet
from compress.data.files import probe_all
from compress.data.json_stream import items
from compress.data.sample import Sample
from compress.errors import UserError, one_line
from compress.tasks import DETECT, TASKS, Instances, SupervisedTask
from compress.tasks.detect import Detect
from compress.tasks.pose import Pose
from compress.tasks.segment import Segment

KEYS = frozenset({"images", "annotations", "categories"})
FOLDERS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}  # Roboflow's names
INSTANCES, KEYPOINTS = "instances_", "person_keypoints_"  # of file names
ROBOFLOW = "_annotations.coco.json"
PROBED = 100  # images by which the folder is recognised
EXPECTED = "a COCO file is an object with the lists images, annotations and categories"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What a COCO file contains, in its order.

    Attributes:
        images: {id: (file name, width, height)}; width and height are 0 if they are not stated.
        categories: {id: name}
        boxes: float64 (n, 6) category, x, y, width, height in pixels, and 1 for a crowd.
        owners: int64 (n,) image ids.
        shapes: for segment and pose, n arrays in pixels: outlines (p, 2), or keypoints (k, 3).
        sizes: int64 (n, 2) width and height in run-length encodings, 0 for other shapes.
        task: the task, for pose with the keypoints that the categories name.
    """

    images: Mapping[int, tuple[str, int, int]]
    categories: Mapping[int, str]
    boxes: np.ndarray
    owners: np.ndarray
    shapes: Sequence[np.ndarray]
    sizes: np.ndarray
    task: SupervisedTask


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the data set in the folder `config.path`.

    Raises:
        UserError: a file is missing, or a JSON file or an image is invalid. The message names the entry.
    """
    if config.path is None or not Path(config.path).is_dir():
        raise UserError("data.path", config.path, "set data.path to the folder of the COCO data set")
    root = Path(config.path)
    names = {"train": "train", "val": "validation", **({"test": "test"} if config.test else {})}
    files = {name: file for key, name in names.items() if (file := _annotations(root, key, config))}
    if "validation" not in files:
        remedy = f"no annotations/instances_val*.json and no valid/{ROBOFLOW}: set data.annotations.val"
        raise UserError("data.path", root, remedy)
    task = TASKS[config.task] if config.task else DETECT
    if not isinstance(task, Detect | Segment | Pose):
        remedy = f"COCO files have no labels for {task.name}: set data.task=detect, segment or pose, or use data=yolo"
        raise UserError("data.task", task.name, remedy)
    contents = {name: read(file, task) for name, file in files.items()}
    categories = dict(sorted(contents["validation"].categories.items()))
    for name, content in contents.items():
        if dict(sorted(content.categories.items())) != categories:
            raise UserError(
                f"{files[name]}: categories", len(content.categories), f"those of {files['validation']} differ"
            )
    samples = {name: _samples(root, files[name], content, list(categories)) for name, content in contents.items()}
    task = contents["validation"].task
    return assemble(task, tuple(categories.values()), samples, config, imgsz, channels, seed)


def _annotations(root: Path, key: str, config: DataConfig) -> Path | None:
    """The JSON file of a split: the one that the configuration names, else by convention; None: the split is absent."""
    if name := config.annotations.get(key):
        for file in (root / name, Path(name)):
            if file.is_file():
                return file
        raise UserError(f"data.annotations.{key}", name, f"no such file, relative to {root} or the working directory")
    prefix = KEYPOINTS if config.task == "pose" else INSTANCES
    files = sorted((root / "annotations").glob(f"{prefix}{key}*.json"))
    files += [file for folder in FOLDERS[key] if (file := root / folder / ROBOFLOW).is_file()]
    if len(files) > 1:
        raise UserError(f"data.annotations.{key}", None, f"set it to one of {', '.join(map(str, files))}")
    return files[0] if files else None


def read(path: Path, task: SupervisedTask = DETECT) -> Content:
    """Reads and checks a COCO file, with the shapes that `task` needs. Unknown keys are ignored.

    Raises:
        UserError: it cannot be read, is not a COCO file, has an id twice, or an annotation is invalid.
    """
    images: dict[int, tuple[str, int, int]] = {}
    categories: dict[int, str] = {}
    owners, ids, values = array("q"), array("q"), array("d")
    counts = dict.fromkeys(KEYS, 0)
    shapes: list[Any] = []  # outlines and sizes, or annotations with keypoints: their number is in the categories
    names: list[Any] = []
    try:
        for key, item in items(path, KEYS):
            where = f"{path}: {key}[{counts[key]}]"
            counts[key] += 1
            if not isinstance(item, dict):
                raise UserError(where, type(item).__name__, EXPECTED)
            if key == "annotations":
                owners.append(_integer(where, item, "image_id"))
                ids.append(_integer(where, item, "id") if "id" in item else -len(ids) - 1)
                values.extend(_box(where, item))
                if isinstance(task, Segment):
                    shapes.append(polygons(where, item) if item.get("iscrowd") != 1 else (np.zeros((0, 2)), (0, 0)))
                elif isinstance(task, Pose):
                    shapes.append((where, {"keypoints": item.get("keypoints")}))
            elif key == "images":
                _add(where, images, item, _image(where, item))
            else:
                _add(where, categories, item, _name(where, item))
                names.append(item.get("keypoints"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("data.annotations", path, f"this is not a valid COCO file ({one_line(error)})") from error
    missing = [key for key in ("images", "categories", "annotations") if not counts[key]]
    if missing:
        raise UserError("data.annotations", path, f"it has no {missing[0]}: {EXPECTED}")
    if len(set(categories.values())) < len(categories):
        raise UserError(f"{path}: categories", "duplicates", "names must be unique: rename one")
    sizes = np.zeros((len(owners), 2), np.int64)
    if isinstance(task, Segment):
        sizes = np.array([size for _, size in shapes], np.int64).reshape(-1, 2)
        shapes = [shape for shape, _ in shapes]
    elif isinstance(task, Pose):
        task = pose_of(str(path), names)
        shapes = [keypoints(where, item, task.keypoints[0]) for where, item in shapes]
    content = Content(
        images, categories, np.array(values).reshape(-1, 6), np.array(owners, np.int64), shapes, sizes, task
    )  # fmt: skip
    _check(path, content, np.array(ids, np.int64))
    return content


def _check(path: Path, content: Content, ids: np.ndarray) -> None:
    """Checks that annotations have different ids and refer to images and categories of the file."""
    for key, used, known in (
        ("image_id", content.owners, list(content.images)),
        ("category_id", content.boxes[:, 0], list(content.categories)),
    ):
        unknown = np.nonzero(~np.isin(used, np.array(known)))[0]
        if len(unknown):
            where, value = f"{path}: annotations[{unknown[0]}].{key}", int(used[unknown[0]])
            raise UserError(where, value, f"the file has no such {key[:-3]} ({len(unknown)} annotations in all)")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise UserError(f"{path}: annotations", f"id {unique[counts > 1][0]}", "the id occurs twice: make ids unique")


def _integer(where: str, item: Mapping[str, Any], key: str) -> int:
    value = item.get(key)
    if type(value) is not int or abs(value) >= 2**53:
        raise UserError(f"{where}.{key}", str(value)[:40], "expected an integer")
    return value


def _add(where: str, table: dict[int, Any], item: Mapping[str, Any], value: Any) -> None:
    number = _integer(where, item, "id")
    if number in table:
        raise UserError(f"{where}.id", number, "the id occurs twice: make ids unique")
    table[number] = value


def _name(where: str, item: Mapping[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}.name", str(name)[:40], "expected a name")
    return name


def _image(where: str, item: Mapping[str, Any]) -> tuple[str, int, int]:
    name = item.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise UserError(f"{where}.file_name", str(name)[:40], "expected the name of an image file")
    width, height = (_integer(where, item, key) if item.get(key) else 0 for key in ("width", "height"))
    if min(width, height) < 0:
        raise UserError(where, f"{width}x{height}", "expected a positive width and height")
    return name, width, height


def _box(where: str, item: Mapping[str, Any]) -> tuple[float, ...]:
    """Category, x, y, width, height, and 1 for a crowd."""
    box = item.get("bbox")
    numbers = box if isinstance(box, list) and all(type(value) in (int, float) for value in box) else []
    if len(numbers) != 4 or not all(-1e9 < value < 1e9 for value in numbers):  # not NaN either
        raise UserError(f"{where}.bbox", str(box)[:80], "expected four numbers: x, y, width, height in pixels")
    return (_integer(where, item, "category_id"), *numbers, item.get("iscrowd") == 1)


def _samples(root: Path, path: Path, content: Content, categories: Sequence[int]) -> list[Sample]:
    names = [name for name, _, _ in content.images.values()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if name in names[names.index(name) + 1 :])
        raise UserError(f"{path}: images", twice, "the file is listed twice: remove one entry")
    folder = _folder(root, path, names)
    files = [folder / name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{path}: images", missing[0], f"no such file ({len(missing)} of {len(files)} images are missing)"
        )
    infos = probe_all(files)
    sizes = []
    for file, (_, width, height), (size, _) in zip(files, content.images.values(), infos, strict=True):
        if width and height:
            check_size(f"{path}: {file.name}", (width, height), size)
        sizes.append((width, height) if width and height else size)
    index = {number: index for index, number in enumerate(content.images)}
    owners = np.array([index[number] for number in content.owners.tolist()], np.int64)
    image_sizes = np.array(sizes)[owners].reshape(-1, 2)
    wrong = np.flatnonzero((content.sizes > 0).any(axis=1) & (content.sizes != image_sizes).any(axis=1))
    if len(wrong):
        first, sides = wrong[0], (*content.sizes[wrong[0]], *image_sizes[wrong[0]])
        why = "the mask is {}x{} pixels, its image {}x{}: correct its size ({} annotations in all)"
        raise UserError(f"{path}: annotations[{first}].segmentation", "size", why.format(*sides, len(wrong)))
    chosen = content.boxes[:, 5] == 0  # no crowds
    if isinstance(content.task, Pose):
        chosen &= np.array([shape[:, 2].any() for shape in content.shapes], bool).reshape(-1)
    classes = np.searchsorted(categories, content.boxes[:, :1])
    boxes = np.hstack([classes, _corners(content)])
    rows, kept = to_labels(boxes[chosen], image_sizes[chosen])
    if len(kept) > len(rows) or not chosen.all():
        crowds, unlabelled = int(content.boxes[:, 5].sum()), int((~chosen).sum() - content.boxes[:, 5].sum())
        further = f", {unlabelled} objects without a labelled keypoint" if unlabelled else ""
        log.warning("%s: %d crowds%s and %d boxes without area are left out", path, crowds, further, (~kept).sum())
    numbers = np.flatnonzero(chosen)[kept]  # of the annotations
    order = np.argsort(owners[numbers], kind="stable")
    ends = np.searchsorted(owners[numbers][order], np.arange(1, len(files)))
    labels: list[Any] = np.split(rows[order], ends)
    if content.shapes:
        parts = np.split(numbers[order], ends)
        columns = content.shapes[0].shape[1]
        labels = [
            Instances.of(label, [_fractions(content.shapes[i], image_sizes[i]) for i in part], columns)
            for label, part in zip(labels, parts, strict=True)
        ]
    return [Sample(file, label, size, digest) for file, label, (size, digest) in zip(files, labels, infos, strict=True)]


def _corners(content: Content) -> np.ndarray:
    """Corners (n, 4) of the boxes in pixels; for segment, of those around the outlines."""
    boxes = content.boxes[:, [1, 2, 1, 2]] + np.hstack([np.zeros((len(content.boxes), 2)), content.boxes[:, 3:5]])
    if isinstance(content.task, Segment):
        for box, shape in zip(boxes, content.shapes, strict=True):
            if len(shape):
                box[:] = (*np.nanmin(shape, axis=0), *np.nanmax(shape, axis=0))
    return boxes


def _fractions(shape: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A shape in pixels as fractions of an image of `size`, clipped to it."""
    result = shape.astype(np.float32)
    result[:, :2] = (result[:, :2] / size).clip(0, 1)
    return result


def _folder(root: Path, path: Path, names: Sequence[str]) -> Path:
    """The folder of the images: the first of the usual ones that has one of the first images."""
    part = path.stem.removeprefix(INSTANCES).removeprefix(KEYPOINTS)
    folders = (path.parent, root / part, root / "images" / part, root / "images", root)
    for folder in folders:
        if any((folder / name).is_file() for name in names[:PROBED]):
            return folder
    usual = ", ".join(dict.fromkeys(map(str, folders)))
    raise UserError(f"{path}: images", names[0], f"no such file; the images were looked for in {usual}")
