"""`data=yolo data.path=data.yaml`: an ordinary Ultralytics data set, checked before work starts.

The YAML names `path` (relative to the YAML or to the working directory), `train`, `val`, perhaps `test` (each a folder,
a .txt list of images, or a list of those) and `names`. Without `train` the data can be evaluated on and nothing else.
Labels of `images/…/x.jpg` stand in `labels/…/x.txt`: one row an object, class and centre x, y, width, height as shares
of the image, or class and a polygon, which becomes its box.
`calibration.txt` beside the YAML lists the calibration images; without it they are held out of `train` by seed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compress.config import DataConfig
from compress.data.dataset import DataSet, Split, hold_out
from compress.data.files import check_disjoint, fingerprint, image_files, look_at_all
from compress.data.labels import read_labels
from compress.data.sample import Sample
from compress.data.subset import stratified
from compress.errors import UserError, one_line
from compress.tasks import DETECT
from compress.tasks.augmentation import Augmentation

LONGEST = 4096  # characters of a path

log = logging.getLogger(__name__)


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads `config.path`. Raises UserError, naming file and line, for whatever is wrong with it."""
    if config.path is None:
        raise UserError("data.path", None, "data=yolo needs data.path=…/data.yaml")
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
) -> DataSet:
    """The data set a YAML describes.

    Args:
        extra: further keys of the YAML that name a split, where they stand in it, and the split's name.
        augmentation: what training may do to the images; mirroring left and right only where None.
        shuffled: calibration.txt is in random order, so that its first images are as good as any.
    """
    facts = _read_yaml(path)
    classes = _classes(path, facts)
    root = _root(path, facts)
    wanted = {"train": "train", "val": "validation", **extra}
    keys = {key: name for key, name in wanted.items() if facts.get(key)}
    found = {name: _samples(path, key, facts, root, len(classes)) for key, name in keys.items()}
    key = "train" if "train" in found else "val"
    _check_labelled(path, key, found[keys[key]])
    seen = found.get("train", [])
    contents = dict(found)
    listed = path.with_name("calibration.txt")
    if listed.is_file():
        contents["calibration"] = _read_samples(_from_list(listed, root), len(classes))
        sources = {sample.source for sample in contents["calibration"]}
        train = [sample for sample in seen if sample.source not in sources]
        calibration: Sequence[Sample] = contents["calibration"]
        count = config.calibration_images
        if not shuffled and count < len(calibration):
            strata = [DETECT.classes_in(sample.label) for sample in calibration]
            calibration = [calibration[i] for i in stratified(strata, count, seed)]
        calibration = calibration[:count]
    else:
        train, calibration = hold_out(seen, config.calibration_images, seed)
    judged = {name: samples for name, samples in found.items() if name != "train"}
    check_disjoint([*train, *calibration], judged)
    policy = augmentation or Augmentation()
    splits = {
        name: Split(name, samples, imgsz, channels, DETECT, policy)
        for name, samples in {**judged, "train": train, "calibration": calibration}.items()
    }
    return DataSet(
        task=DETECT,
        classes=classes,
        train=splits.pop("train"),
        calibration=splits.pop("calibration"),
        validation=splits.pop("validation").subset(config.validation_images, seed),
        fingerprint=fingerprint(classes, contents),
        extra=splits,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError("data.path", path, "no such file: use the data set's YAML")
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError("data.path", path, f"this is no YAML: {one_line(error)}") from error
    if not isinstance(facts, dict):
        raise UserError("data.path", path, "the YAML must hold keys such as train, val and names")
    for key in ("val", "names"):
        if not facts.get(key):
            raise UserError("data.path", path, f"the YAML names no `{key}`: add it")
    return facts


def _classes(path: Path, facts: Mapping[str, Any]) -> tuple[str, ...]:
    names = facts["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{path}: names", list(names), "class numbers must run from 0 without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: names", names, "set a list of class names, or a mapping from number to name")
    for name in names:
        if not isinstance(name, str | int | float) or isinstance(name, bool) or not str(name).strip():
            raise UserError(f"{path}: names", type(name).__name__, "each class name must be a text that is not empty")
    if len({str(name) for name in names}) < len(names):
        raise UserError(f"{path}: names", "duplicates", "set every class a name of its own")
    if not isinstance(facts.get("nc", 0), int):
        raise UserError(f"{path}: nc", type(facts["nc"]).__name__, "set the number of classes, or remove it")
    if facts.get("nc", len(names)) != len(names):
        raise UserError(f"{path}: nc", facts["nc"], f"`names` has {len(names)} entries: make them agree")
    return tuple(str(name) for name in names)


def _root(path: Path, facts: Mapping[str, Any]) -> Path:
    given = facts.get("path")
    if not given:
        return path.parent
    if not isinstance(given, str) or len(given) > LONGEST:
        raise UserError(f"{path}: path", type(given).__name__, "set the data set's folder as a text")
    for root in (path.parent / str(given), Path(str(given))):
        if root.is_dir():
            return root
    raise UserError(f"{path}: path", given, "no such folder, relative to the YAML or to the working directory")


def _samples(path: Path, key: str, facts: Mapping[str, Any], root: Path, classes: int) -> list[Sample]:
    entries = facts[key] if isinstance(facts[key], list) else [facts[key]]
    files: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str) or len(entry) > LONGEST:
            raise UserError(
                f"{path}: {key}",
                str(entry)[:80] if isinstance(entry, str) else type(entry).__name__,
                "use a folder, a .txt list of images, or a list of those",
            )
        place = root / entry
        if place.is_dir():
            files += image_files(place)
        elif place.is_file() and place.suffix == ".txt":
            files += _from_list(place, root)
        else:
            raise UserError(f"{path}: {key}", entry, f"no such folder or .txt list ({place})")
    if not files:
        raise UserError(f"{path}: {key}", facts[key], "no images found there")
    return _read_samples(files, classes)


def _from_list(path: Path, root: Path) -> list[Path]:
    """Images of a .txt list: absolute, or relative to the list's folder or to the data set's root."""
    files = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data.path", path, f"this list of images cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        places = (path.parent / line.strip(), root / line.strip())
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise UserError(f"{path}:{number}", line.strip(), "no such image, relative to the list or to the root")
        files.append(file)
    return files


def _read_samples(files: Sequence[Path], classes: int) -> list[Sample]:
    each = list(dict.fromkeys(files))
    return [
        Sample(file, read_labels(_label_file(file), classes), size, digest)
        for file, (size, digest) in zip(each, look_at_all(each), strict=True)
    ]


def _label_file(image: Path) -> Path:
    """images/…/x.jpg -> labels/…/x.txt, by the last folder called `images`; beside the image where there is none."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _check_labelled(path: Path, key: str, samples: Sequence[Sample]) -> None:
    """Images without a label file are background; a whole training split of them is a misplaced folder."""
    if not any(isinstance(sample.label, np.ndarray) and len(sample.label) for sample in samples):
        place = _label_file(Path(str(samples[0].source)))
        raise UserError(f"{path}: {key}", samples[0].source, f"no image has a label; the first was sought at {place}")
