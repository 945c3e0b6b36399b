"""`data=image_folder data.path=…`: classification data in folders `train/<class>/*.jpg` and `val/<class>/*.jpg`.

The classes are the subfolders of `train` in alphabetical order. Calibration images are held out of `train` by seed.
Data without `train/` can only be used for evaluation; its classes are the subfolders of `val`.
"""

from __future__ import annotations

from pathlib import Path

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.dataset import DataSet
from compress.data.files import image_files, probe_all
from compress.data.sample import Sample
from compress.errors import UserError
from compress.tasks import CLASSIFY


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads `config.path`.

    Raises:
        UserError: a folder is missing or empty, `val` has a class that `train` does not have, an image cannot be read,
            or an image is in both.
    """
    if config.path is None:
        raise UserError("data.path", None, "set data.path to a folder with train/ and val/")
    root = Path(config.path)
    folders = {"train": "train", "validation": "val"}
    if not (root / "train").exists():
        del folders["train"]  # evaluation only
    classes = _classes(root / folders.get("train", "val"))
    unknown = sorted(set(_classes(root / "val")) - set(classes))
    if unknown:
        raise UserError("data.path", root / "val" / unknown[0], "train/ has no such class: rename or remove it")
    samples = {name: _samples(root / folder, classes) for name, folder in folders.items()}
    return assemble(CLASSIFY, classes, samples, config, imgsz, channels, seed)


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError("data.path", folder, "no such folder: data=image_folder reads train/<class>/ and val/<class>/")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise UserError("data.path", folder, "has no class folders: add train/<class>/ and val/<class>/")
    return classes


def _samples(folder: Path, classes: tuple[str, ...]) -> list[Sample]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = image_files(folder / name) if (folder / name).is_dir() else []
        if not images and folder.name == "train":
            raise UserError("data.path", folder / name, "a class without images: add some, or remove the folder")
        files += images
        labels += [label] * len(images)
    if not files:
        raise UserError("data.path", folder, "has no images")
    probed = zip(files, labels, probe_all(files), strict=True)
    return [Sample(file, label, size, digest) for file, label, (size, digest) in probed]
