"""`data=voc data.path=…`: a detection data set in Pascal VOC's XML format.

The images of `ImageSets/Main/train.txt`, `val.txt` and `test.txt` are in `JPEGImages/`, their boxes in `Annotations/`.
Without `ImageSets` the splits are folders `train/`, `val/` (or `valid/`) and `test/`, with `x.xml` beside `x.jpg`.
Without `train` the data can only be used for evaluation.

Objects marked `difficult` are left out, in training and in evaluation, as Ultralytics does. Pixels are counted from 1
and xmax, ymax are included, so a box is x from xmin - 1 to xmax. It is clipped to the image, and left out if it has no
area. The log counts the omitted objects. An XML with a document type, which could expand entities, is refused.
"""

from __future__ import annotations

import logging
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from compress.config import DataConfig
from compress.data.assembly import assemble
from compress.data.boxes import check_size, to_labels
from compress.data.dataset import DataSet
from compress.data.files import SUFFIXES, image_files, probe_all
from compress.data.index import read_all
from compress.data.sample import Sample
from compress.errors import UserError, one_line
from compress.tasks import DETECT

FOLDERS = {"train": ("train",), "validation": ("val", "valid"), "test": ("test",)}
CORNERS = ("xmin", "ymin", "xmax", "ymax")

# Width, height, names of the objects, and base64 of float64 (n, 5) xmin, ymin, xmax, ymax, difficult: a JSON value that
# is read faster than nested lists.
Annotation = Sequence[Any]

log = logging.getLogger(__name__)


def load(config: DataConfig, imgsz: int, channels: int, seed: int) -> DataSet:
    """Loads the data set in the folder `config.path`.

    Raises:
        UserError: a file is missing, or an XML file or an image is invalid. The message names the file.
    """
    if config.path is None or not Path(config.path).is_dir():
        raise UserError("data.path", config.path, "set data.path to the folder of the Pascal VOC data set")
    root = Path(config.path)
    lists = root / "ImageSets" / "Main"
    listed = {file.stem: file for file in image_files(root / "JPEGImages")} if lists.is_dir() else None
    names = [name for name in FOLDERS if name != "test" or config.test]
    images = {name: files for name in names if (files := _images(root, name, listed))}
    if "validation" not in images:
        remedy = "has neither ImageSets/Main/val.txt nor a folder val/ or valid/ with images"
        raise UserError("data.path", root, f"{remedy}: add one")
    folder = None if listed is None else f"{root / 'Annotations'}{os.sep}"
    annotations = {name: _annotations(files, folder) for name, files in images.items()}
    classes = _classes(root, config, annotations)
    samples = {name: _samples(root, files, annotations[name], classes) for name, files in images.items()}
    return assemble(DETECT, classes, samples, config, imgsz, channels, seed)


def _images(root: Path, split: str, files: Mapping[str, Path] | None) -> list[Path]:
    """The images of a split. `files` are those in JPEGImages, by name; None: each split has a separate folder."""
    if files is None:
        folder = next((folder for name in FOLDERS[split] if (folder := root / name).is_dir()), None)
        return image_files(folder) if folder else []
    listing = root / "ImageSets" / "Main" / f"{FOLDERS[split][0]}.txt"
    if not listing.is_file():
        return []
    try:
        names = [words[0] for line in listing.read_text(encoding="utf-8-sig").splitlines() if (words := line.split())]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data.path", listing, f"the list of images cannot be read ({error})") from error
    if missing := [name for name in names if name not in files]:
        remedy = f"no such image in {root / 'JPEGImages'} ({len(missing)} of {len(names)} are missing)"
        raise UserError(listing.name, missing[0], f"{remedy}; images end in {', '.join(sorted(SUFFIXES))}")
    return [files[name] for name in dict.fromkeys(names)]


def _annotations(images: Sequence[Path], folder: str | None) -> list[Annotation]:
    """The annotations in a folder (None: beside the images)."""
    if folder is None:
        files = [f"{str(image).rpartition('.')[0]}.xml" for image in images]
    else:
        files = [f"{folder}{image.stem}.xml" for image in images]
    return read_all(files, "VOC annotations", _read)


def _read(path: Path, status: os.stat_result | None) -> Annotation:
    if status is None or not stat.S_ISREG(status.st_mode):
        raise UserError("data", path, "no such file: every image needs one, without objects if it shows none")
    try:
        root = parse(path.read_bytes())
        if root.tag != "annotation":
            raise ValueError(f"its element is {root.tag!r}, expected 'annotation'")
        width, height = (int(float(root.findtext(f"size/{key}") or 0)) for key in ("width", "height"))
        objects = [_object(index, item) for index, item in enumerate(root.iterfind("object"))]
        values = np.array([row for _, row in objects], "<f8")
        return [width, height, [name for name, _ in objects], b64encode(values.tobytes()).decode()]
    except (OSError, ValueError, OverflowError, LookupError, expat.ExpatError) as error:
        raise UserError("data", path, f"this is not a valid Pascal VOC file ({one_line(error)}): fix it") from error


def parse(content: bytes) -> ElementTree.Element:
    """Parses XML without a document type, so without entities of its own.

    Raises:
        ValueError: it has a document type.
        expat.ExpatError, LookupError: it is not well-formed, or its encoding is unknown.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _refuse(name: str, *_: object) -> None:
    raise ValueError(f"it has a document type, {name!r}: remove <!DOCTYPE …>")


def _object(index: int, item: ElementTree.Element) -> tuple[str, list[float]]:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"object {index} has no name")
    corners = [item.findtext(f"bndbox/{key}") for key in CORNERS]
    try:
        values = [float(text or "") for text in corners]
        if not all(-1e9 < value < 1e9 for value in values):  # not NaN either
            raise ValueError
    except ValueError:
        raise ValueError(f"object {index}, {name}: its bndbox is {corners}, expected four numbers") from None
    return name, [*values, float((item.findtext("difficult") or "0").strip() == "1")]


def _classes(root: Path, config: DataConfig, annotations: dict[str, list[Annotation]]) -> tuple[str, ...]:
    names = {name for split in annotations.values() for _, _, names, _ in split for name in names}
    if not names:
        raise UserError("data.path", root, "no image has an object: check the XML files")
    classes = tuple(sorted(names) if config.classes is None else config.classes)
    if len(set(classes)) < len(classes):
        raise UserError("data.classes", list(classes), "class names must be unique")
    if unknown := sorted(names - set(classes)):
        raise UserError("data.classes", list(classes), f"the data has objects of the class {unknown[0]!r}: add it")
    return classes


def _samples(
    root: Path, files: Sequence[Path], annotations: list[Annotation], classes: tuple[str, ...]
) -> list[Sample]:
    infos = probe_all(files)
    sizes = []
    for file, (width, height, _, _), (size, _) in zip(files, annotations, infos, strict=True):
        if width > 0 and height > 0:
            check_size(f"{file.stem}.xml: size", (width, height), size)
            size = width, height
        sizes.append(size)
    numbers = {name: number for number, name in enumerate(classes)}
    classes_of = np.array([numbers[name] for _, _, names, _ in annotations for name in names], float)
    values = np.frombuffer(b"".join(b64decode(values) for _, _, _, values in annotations), "<f8").reshape(-1, 5)
    owners = np.repeat(np.arange(len(files)), [len(names) for _, _, names, _ in annotations])
    difficult = values[:, 4] > 0
    boxes = np.column_stack([classes_of, values[:, :2] - 1, values[:, 2:4]])[~difficult]
    rows, kept = to_labels(boxes, np.array(sizes)[owners[~difficult]])
    if difficult.any() or not kept.all():
        counts = difficult.sum(), (~kept).sum()
        log.warning("%s: %d difficult objects and %d boxes without area are left out", root, *counts)
    labels = np.split(rows, np.searchsorted(owners[~difficult][kept], np.arange(1, len(files))))
    return [Sample(file, label, size, digest) for file, label, (size, digest) in zip(files, labels, infos, strict=True)]
