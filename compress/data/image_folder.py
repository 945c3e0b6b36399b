"""`data=image_folder data.path=…`: `train/<class>/*.jpg` and `val/<class>/*.jpg`, to classify.

Classes are the folders of `train` in alphabetical order. Calibration images are held out of `train` by seed. Without
`train/` the data can be evaluated on and nothing else; the classes are then the folders of `val`.
"""

from __future__ import annotations

from pathlib import Path

from compress.config import DataConfig
from compress.data.dataset import DataSet, Split, hold_out
from compress.data.files import check_disjoint, fingerprint, image_files, look_at_all
from compress.data.sample import Sample
from compress.errors import UserError
from compress.tasks import CLASSIFY


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads `config.path`.

    Raises:
        UserError: a folder is missing or empty, `val` holds a class that `train` does not, an image cannot be read, or
            an image stands in both.
    """
    if config.path is None:
        raise UserError("data.path", None, "data=image_folder needs data.path=…, holding train/ and val/")
    root = Path(config.path)
    folders = {"train": "train", "validation": "val"}
    if not (root / "train").exists():
        del folders["train"]  # for evaluation only
    classes = _classes(root / folders.get("train", "val"))
    unknown = sorted(set(_classes(root / "val")) - set(classes))
    if unknown:
        raise UserError("data.path", root / "val" / unknown[0], "a class that train/ does not have: name it alike")
    found = {name: _samples(root / folder, classes) for name, folder in folders.items()}
    seen = found.get("train", [])
    check_disjoint(seen, {"validation": found["validation"]})
    train, calibration = hold_out(seen, config.calibration_images, seed)
    return DataSet(
        task=CLASSIFY,
        classes=classes,
        train=Split("train", train, imgsz, channels, CLASSIFY),
        calibration=Split("calibration", calibration, imgsz, channels, CLASSIFY),
        validation=Split("validation", found["validation"], imgsz, channels, CLASSIFY).subset(
            config.validation_images, seed
        ),
        fingerprint=fingerprint(classes, found),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError("data.path", folder, "no such folder: data=image_folder reads train/<class>/ and val/<class>/")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise UserError("data.path", folder, "holds no class folders")
    return classes


def _samples(folder: Path, classes: tuple[str, ...]) -> list[Sample]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = image_files(folder / name) if (folder / name).is_dir() else []
        if not own and folder.name == "train":
            raise UserError("data.path", folder / name, "a class without images: add some, or remove the folder")
        files += own
        labels += [label] * len(own)
    if not files:
        raise UserError("data.path", folder, "holds no images")
    looked = zip(files, labels, look_at_all(files), strict=True)
    return [Sample(file, label, size, digest) for file, label, (size, digest) in looked]
