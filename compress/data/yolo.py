"""`data=yolo data.path=data.yaml`: a data set in the Ultralytics format, validated before work starts.

Keys of the YAML are `path` (the root folder, relative to the YAML or the working directory), `train`, `val`, optionally
`test` (each a folder, a .txt list of images, or a list of those) and `names`. Without `train` the data can only be used
for evaluation. The labels of `images/…/x.jpg` are in `labels/…/x.txt`, one row per object: class and centre x, y,
width, height as fractions of the image, or class and polygon, which is replaced by its bounding box. For the tasks
segment and obb the rows are class and polygon, or class and four corners. For semantic they are those of segment, and
there is a class more, `background`, outside of all polygons. For pose, class, box and keypoints, of which
`kpt_shape` in the YAML states how many there are and how many numbers each has, and `flip_idx` which one each is in a
mirror.
With `data.labels=false`, no label is read.
If there is a `calibration.txt` beside the YAML, it lists the calibration images. Otherwise they are held out of
`train` by seed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.dataset import DataSet
from compress.data.files import image_files, probe_all
from compress.data.labels import read_labels
from compress.data.sample import NO_LABEL, Sample
from compress.data.subset import stratified
from compress.errors import UserError, one_line
from compress.tasks import DETECT, SEGMENT, SEMANTIC, TASKS, SupervisedTask
from compress.tasks.augmentation import Augmentation
from compress.tasks.pose import MAX_KEYPOINTS, Pose
from compress.tasks.semantic import BACKGROUND

LONGEST = 4096  # characters in a path
LABELS = "labels"

log = logging.getLogger(__name__)


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the data set of the YAML at `config.path`.

    Raises:
        UserError: the YAML, a list, an image or a label is invalid. The message names file and line.
    """
    if config.path is None:
        raise UserError("data.path", None, "set data.path to the data set's YAML file")
    extra = {"test": "test"} if config.test else {}
    return load_yaml(Path(config.path), config, imgsz, channels, seed, extra=extra)


def load_yaml(
    path: Path,
    config: DataConfig,
    imgsz: int,
    channels: int,
    seed: int,
    *,
    extra: Mapping[str, str],
    augmentation: Augmentation | None = None,
    shuffled: bool = False,
    labels: str = LABELS,
) -> DataSet:
    """Loads the data set that a YAML describes.

    Args:
        extra: optional keys of the YAML for further splits, mapped to the names of those splits.
        augmentation: random changes allowed in training; None: the defaults of `Augmentation`.
        labels: folder of the labels, in place of `images`.
        shuffled: calibration.txt is in random order, so its first images can be used without stratification.

    Raises:
        UserError: see `load`.
    """
    spec = _read_yaml(path)
    classes = _classes(path, spec)
    root = _root(path, spec)
    keys = {key: name for key, name in {"train": "train", "val": "validation", **extra}.items() if spec.get(key)}
    task = _task(path, spec, config.task)
    rows = SEGMENT if task is SEMANTIC else task  # of polygons both can be made
    count = len(classes) if config.labels else None
    reader = partial(_read_samples, classes=count, task=rows, labels=labels)
    samples = {name: reader(_files(path, key, spec, root)) for key, name in keys.items()}
    key = "train" if "train" in samples else "val"
    if config.labels:
        _check_labelled(path, key, samples[keys[key]], labels)
    chosen = None
    calibration_list = path.with_name("calibration.txt")
    if calibration_list.is_file():
        samples["calibration"] = listed = reader(_from_list(calibration_list, root))
        sources = {sample.source for sample in listed}
        train = [sample for sample in samples.get("train", []) if sample.source not in sources]
        wanted = config.calibration_images
        if not shuffled and wanted < len(listed):
            present = [task.classes_in(sample.label) if config.labels else set() for sample in listed]
            listed = [listed[i] for i in stratified(present, wanted, seed)]
        chosen = train, listed[:wanted]
    if task is SEMANTIC:
        classes = (BACKGROUND, *classes)
    return assemble(
        task, classes, samples, config, imgsz, channels, seed, chosen=chosen, augmentation=augmentation
    )  # fmt: skip


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError("data.path", path, "no such file: set data.path to the data set's YAML file")
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError("data.path", path, f"this is not a valid YAML file: {one_line(error)}") from error
    if not isinstance(spec, dict):
        raise UserError("data.path", path, "the YAML must have keys such as train, val and names")
    for key in ("val", "names"):
        if not spec.get(key):
            raise UserError("data.path", path, f"the YAML has no `{key}`: add it")
    return spec


def _classes(path: Path, spec: Mapping[str, Any]) -> tuple[str, ...]:
    names = spec["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{path}: names", list(names), "class numbers must run from 0 without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: names", names, "set a list of class names, or a mapping from number to name")
    for name in names:
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not str(name).strip():
            raise UserError(f"{path}: names", type(name).__name__, "each class name must be a non-empty string")
    if len({str(name) for name in names}) < len(names):
        raise UserError(f"{path}: names", "duplicates", "class names must be unique")
    if not isinstance(spec.get("nc", 0), int):
        raise UserError(f"{path}: nc", type(spec["nc"]).__name__, "set the number of classes, or remove it")
    if spec.get("nc", len(names)) != len(names):
        raise UserError(f"{path}: nc", spec["nc"], f"`names` has {len(names)} entries: make them agree")
    return tuple(str(name) for name in names)


def _task(path: Path, spec: Mapping[str, Any], name: str | None) -> SupervisedTask:
    """The task with the keypoints that the YAML describes."""
    task = TASKS[name] if name else DETECT
    assert isinstance(task, SupervisedTask)  # `DataConfig` has checked the name
    if not isinstance(task, Pose):
        if "kpt_shape" in spec:  # whose rows could be read as polygons
            why = (
                f"these are labels for pose, not {task.name}: use a -pose model, or remove it if there are no keypoints"
            )
            raise UserError(f"{path}: kpt_shape", str(spec["kpt_shape"])[:80], why)
        return task
    shape: Any = spec.get("kpt_shape")
    flip: Any = spec.get("flip_idx")
    good = isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape)
    if not good or not 1 <= shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        why = "set the number of keypoints and 2 (x, y) or 3 (x, y, visibility), e.g. [17, 3]"
        raise UserError(f"{path}: kpt_shape", shape, why)
    if flip is not None and (not isinstance(flip, list) or sorted(map(str, flip)) != sorted(map(str, range(shape[0])))):
        why = f"set which of the {shape[0]} keypoints, numbered from 0, each one is in a mirror, or remove it"
        raise UserError(f"{path}: flip_idx", str(flip)[:80], why)
    if flip is None:
        log.warning("%s has no flip_idx: images are not mirrored in training", path)
    return replace(task, keypoints=(shape[0], shape[1]), flip_index=None if flip is None else tuple(map(int, flip)))


def _root(path: Path, spec: Mapping[str, Any]) -> Path:
    folder = spec.get("path")
    if not folder:
        return path.parent
    if not isinstance(folder, str) or len(folder) > LONGEST:
        raise UserError(f"{path}: path", type(folder).__name__, "set the data set's folder, as a string")
    for root in (path.parent / folder, Path(folder)):
        if root.is_dir():
            return root
    raise UserError(f"{path}: path", folder, "no such folder, relative to the YAML or to the working directory")


def _files(path: Path, key: str, spec: Mapping[str, Any], root: Path) -> list[Path]:
    entries = spec[key] if isinstance(spec[key], list) else [spec[key]]
    files: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str) or len(entry) > LONGEST:
            raise UserError(
                f"{path}: {key}",
                str(entry)[:80] if isinstance(entry, str) else type(entry).__name__,
                "use a folder, a .txt list of images, or a list of those",
            )
        location = root / entry
        if location.is_dir():
            files += image_files(location)
        elif location.is_file() and location.suffix == ".txt":
            files += _from_list(location, root)
        else:
            raise UserError(f"{path}: {key}", entry, f"no such folder or .txt list ({location})")
    if not files:
        raise UserError(f"{path}: {key}", spec[key], "no images in it")
    return files


def _from_list(path: Path, root: Path) -> list[Path]:
    """Reads the image paths in a .txt list: absolute, or relative to the list or to the data set's root."""
    files = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data.path", path, f"the list of images cannot be read ({error}): fix or remove it") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        candidates = (path.parent / line.strip(), root / line.strip())
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise UserError(f"{path}:{number}", line.strip(), "no such image, relative to the list or to the root")
        files.append(file)
    return files


def _read_samples(files: Sequence[Path], classes: int | None, task: SupervisedTask, labels: str) -> list[Sample]:
    """The images with their labels; `classes` None: without."""
    files = list(dict.fromkeys(files))  # without duplicates
    contents = [NO_LABEL] * len(files) if classes is None else read_labels(_label_files(files, labels), classes, task)
    return [
        Sample(file, label, size, digest)
        for file, label, (size, digest) in zip(files, contents, probe_all(files), strict=True)
    ]


def _label_files(images: Sequence[Path], labels: str = LABELS) -> list[str]:
    """images/…/x.jpg -> labels/…/x.txt, by the last folder named `images`; without one, x.txt beside the image."""
    folders: dict[str, str] = {}
    files = []
    for image in images:
        folder, _, name = str(image).rpartition(os.sep)
        if folder not in folders:
            parts = list(image.parent.parts)
            if "images" in parts:
                parts[len(parts) - 1 - parts[::-1].index("images")] = labels
            folders[folder] = str(Path(*parts))
        files.append(f"{folders[folder]}{os.sep}{name.rpartition('.')[0] or name}.txt")
    return files


def _check_labelled(path: Path, key: str, samples: Sequence[Sample], labels: str) -> None:
    """Rejects a split without any label. Single images may have none, but here the label folder must be misplaced."""
    if not any(len(sample.label) for sample in samples):
        [file] = _label_files([Path(str(samples[0].source))], labels)
        raise UserError(f"{path}: {key}", samples[0].source, f"no image has a label; expected its labels in {file}")
