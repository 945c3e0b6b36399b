"""Base of the tasks whose labelled objects have a shape besides their box: `segment`, `pose` and `obb`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from compress.tasks import drawing
from compress.tasks.augmentation import (
    SMALLEST_SIDE,
    Augmentation,
    Geometry,
    Window,
    clipped_boxes,
    placed_boxes,
    placement,
    recolour,
    tiles,
)
from compress.tasks.mean_ap import LEVELS, Detections, accuracy, average_precision, collect, confident, dice
from compress.tasks.metric import Accuracy, Metric
from compress.tasks.task import Batch, Predictions, SupervisedTask, box_batch, box_output_kind

MIN_SCORE = 0.25  # minimum score of the detections compared in `confidence_shift`
SAME = 0.5  # minimum similarity of two detections of a class that are regarded as the same
WHOLE = (0.0, 0.0, 1.0, 1.0)  # the window of an image, in fractions


@dataclass(frozen=True, eq=False)
class Instances:
    """The labelled objects of one image.

    In labels, coordinates are fractions of the image and boxes are class, centre x, y, width, height. In targets they
    are input pixels and boxes are class, x1, y1, x2, y2.
    """

    boxes: np.ndarray  # float32 (n, 5)
    points: np.ndarray  # float32 (p, 2 or 3): x, y and for keypoints visibility, of all objects one after another
    counts: np.ndarray  # int64 (n,), points of each object; their sum is p

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, boxes: Any, shapes: Sequence[np.ndarray], columns: int = 2) -> Instances:
        """From boxes (n, 5) and the points (p, `columns`) of each object."""
        points = [np.asarray(shape, np.float32).reshape(-1, columns) for shape in shapes]
        counts = np.array([len(shape) for shape in points], np.int64)
        table = np.concatenate([np.zeros((0, columns), np.float32), *points])
        return cls(np.asarray(boxes, np.float32).reshape(-1, 5), table, counts)

    def shapes(self) -> list[np.ndarray]:
        """The points of each object."""
        return np.split(self.points, np.cumsum(self.counts)[:-1]) if len(self) else []

    def take(self, indices: Any) -> Instances:
        """The objects at these indices."""
        shapes = self.shapes()
        chosen = [shapes[index] for index in np.arange(len(self))[indices]]
        return Instances.of(self.boxes[indices], chosen, self.points.shape[1])

    def tobytes(self) -> bytes:
        """For hashes: the content, independent of the machine."""
        return self.boxes.tobytes() + self.points.tobytes() + self.counts.tobytes()


@dataclass(frozen=True, eq=False)
class AnsweredInstances(Instances):
    """Targets made of the predictions of a model, for data without labels."""

    predicted: Detections


def joined(parts: Sequence[Instances]) -> Instances:
    """The objects of several images as those of one."""
    fields = zip(*((part.boxes, part.points, part.counts) for part in parts))
    return Instances(*(np.concatenate(field) for field in fields))


@dataclass(frozen=True)
class InstanceAveragePrecision:
    """Average precision by the similarity of the task's shapes, mean over classes and the thresholds of `name`, see
    `compress.tasks.mean_ap`."""

    name: str  # a key of LEVELS after a prefix such as mask_
    similarity: Callable[[Any, Any], np.ndarray]  # of detections and a target: (n, m) in [0, 1]
    boxes: bool  # also report the figures of the boxes

    def evaluate(self, predictions: Sequence[Any], targets: Sequence[Any], classes: Sequence[str]) -> Accuracy:
        """Evaluates `Detections` with shapes against `Instances` in input pixels. Raises UserError if no image has a
        labelled object."""
        truths, similarity = [target.boxes for target in targets], self.similarity

        def compare(index: int, each: Detections) -> np.ndarray:
            target = targets[index]
            return similarity(each, target.predicted if isinstance(target, AnsweredInstances) else target)

        matches = collect(predictions, truths, len(classes), compare)
        details: dict[str, float] = {}
        if self.boxes and matches.truths.any():
            ap = average_precision(collect(predictions, truths, len(classes)), np.ones((len(targets), 1)))[0]
            present = matches.truths.any(axis=0)
            details = {f"box_{name}": float(ap[present, levels].mean()) for name, levels in LEVELS.items()}
        identity = [array for target in targets for array in (target.boxes, target.points)]
        return accuracy(matches, classes, self.name, identity, details)

    def variants(self) -> dict[str, InstanceAveragePrecision]:
        """This metric at each of LEVELS, by name."""
        prefix = self.name.rpartition("_")[0]
        return {name: replace(self, name=name) for name in (f"{prefix}_{level}" for level in LEVELS)}


@dataclass(frozen=True)
class InstanceTask(SupervisedTask):
    """A task whose labels and targets are `Instances`.

    A batch of b images with m objects has `img` float32 (b, c, s, s), `cls` (m, 1), `bboxes` (m, 4), centre x, y,
    width, height as fractions of the input, `batch_idx` (m,), the index of the image of each object, and the entries of
    the task, as the losses of the Ultralytics package expect them.
    """

    agreement: ClassVar[str] = "fraction of the objects of both that match in class and shape (similarity at least 0.5)"
    columns: ClassVar[int] = 2  # of a point
    suffix: ClassVar[str]  # of the names of models for this task
    shape: ClassVar[str]  # of an object, for messages

    @abstractmethod
    def row(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        """Converts the numbers after the class in a row of a YOLO label file to a box (centre x, y, width, height) and
        points, all fractions of the image. Raises ValueError with the reason if they are no label of this task."""

    @abstractmethod
    def cut(self, objects: Instances, window: Window) -> Instances:
        """The objects, in pixels, of which enough is inside a window, with the shape and the box of that part."""

    @abstractmethod
    def similarity(self, predictions: Any, others: Any) -> np.ndarray:
        """Similarity (n, m) in [0, 1] of two sets of predictions for an image."""

    @abstractmethod
    def shapes_of(self, predictions: Any) -> list[np.ndarray]:
        """The points, in input pixels, of the shapes of an image's predictions."""

    def as_targets(self, predictions: Predictions, confidence: float) -> list[Any]:
        """The detections that score at least `confidence`. Those without area are left out."""
        targets = []
        for image in self.confident(predictions, confidence):
            solid = image.take(np.flatnonzero((image.boxes[:, 2:] > image.boxes[:, :2]).all(axis=1)))
            boxes = np.column_stack([solid.classes, solid.boxes])
            objects = Instances.of(boxes, self.shapes_of(solid), self.columns)
            targets.append(AnsweredInstances(objects.boxes, objects.points, objects.counts, solid))
        return targets

    def confident(self, predictions: Predictions, confidence: float) -> Sequence[Any]:
        return confident(predictions, confidence)

    def entries(self, targets: list[Instances], side: int) -> Batch:
        """The entries of a batch that only this task has. `side`: of the images, pixels."""
        return {}

    def metrics(self, classes: int) -> Mapping[str, Metric]:
        own = self.metric
        return own.variants() if isinstance(own, InstanceAveragePrecision) else super().metrics(classes)

    def output_kind(self, *, end_to_end: bool, postprocessed: bool) -> str:
        """Raw outputs begin with boxes and scores, as those of detectors do."""
        return f"{self.name}/{box_output_kind(end_to_end=end_to_end, postprocessed=postprocessed)}"

    def kit_label(self, target: Any) -> np.ndarray:
        return target.boxes

    def arranged(self, target: Instances) -> Instances:
        """The objects in the order in which a batch has them."""
        return target

    def target(self, label: Any, size: tuple[int, int], imgsz: int) -> Instances:
        width, height, left, top = placement(size, imgsz)
        points = label.points.copy()
        points[:, :2] = points[:, :2] * (width, height) + (left, top)
        return Instances(placed_boxes(label.boxes, size, imgsz), points, label.counts)

    def classes_in(self, label: Any) -> set[int]:
        return set(label.boxes[:, 0].astype(int).tolist())

    def label_problem(self, label: Any, classes: int) -> str | None:
        if not isinstance(label, Instances) or label.points.ndim != 2 or label.points.shape[1] != self.columns:
            return f"the label is a {type(label).__name__}; expected compress.tasks.Instances with {self.shape}"
        if label.boxes.shape != (len(label.counts), 5) or label.counts.sum() != len(label.points):
            return "the label's boxes, points and counts do not belong together"
        points = label.points[~np.isnan(label.points[:, 0]), :2]  # NaN separates the rings of a polygon
        if not all(((array >= 0) & (array <= 1)).all() for array in (label.boxes[:, 1:], points)):
            return "the label's coordinates must be fractions of the image, in [0, 1]"
        index = label.boxes[:, 0]
        if (index != index.astype(int)).any() or (index < 0).any() or (index >= classes).any():
            return f"the label's classes must be whole numbers from 0 to {classes - 1}"
        return None

    def collate(
        self, images: list[np.ndarray], targets: list[Any], augmentation: Augmentation, rng: np.random.Generator | None
    ) -> Batch:
        side = images[0].shape[0]
        if rng is not None:
            pairs = [self._augmented(image, each, augmentation, rng) for image, each in zip(images, targets)]
            images, targets = [image for image, _ in pairs], [each for _, each in pairs]
            chance = augmentation.mosaic
            pairs = [
                self._mosaic(images, targets, i, rng) if rng.random() < chance else pairs[i] for i in range(len(images))
            ]
            images, targets = [image for image, _ in pairs], [each for _, each in pairs]
        targets = [self.arranged(target) for target in targets]
        return {**box_batch(images, [target.boxes for target in targets]), **self.entries(targets, side)}

    def _augmented(
        self, image: np.ndarray, objects: Instances, policy: Augmentation, rng: np.random.Generator
    ) -> tuple[np.ndarray, Instances]:
        geometry = Geometry.draw(image.shape[0], policy, rng)
        moved = self.reflected(objects) if geometry.is_reflection else objects
        moved = Instances(geometry.boxes(moved.boxes), geometry.points(moved.points), moved.counts)
        return recolour(geometry.image(image), policy, rng), self.cut(moved, (0, 0, geometry.side, geometry.side))

    def reflected(self, objects: Instances) -> Instances:
        """The objects as they are named in a mirror; their coordinates are those of the image before."""
        return objects

    def _mosaic(
        self, images: list[np.ndarray], targets: list[Instances], first: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, Instances]:
        canvas, parts = tiles(images, first, rng)
        moved = []
        for tile in parts:
            objects, (dx, dy) = self.cut(targets[tile.index], tile.window), tile.offset
            offset = np.array([dx, dy, 0], np.float32)[: self.columns]
            boxes = objects.boxes + np.array([0, dx, dy, dx, dy], np.float32)
            moved.append(Instances(boxes, objects.points + offset, objects.counts))
        return canvas, joined(moved)

    def draw(self, canvas: np.ndarray, target: Instances, scale: float, classes: Sequence[str]) -> None:
        for row, shape in zip(target.boxes, target.shapes(), strict=True):
            index = int(row[0])
            self.draw_shape(canvas, row[1:] * scale, shape[:, :2] * np.float32(scale), shape, index)
            x, y = (row[1:3] * scale).round().astype(int).tolist()
            drawing.label(canvas, (x, y), index, classes[index])

    def draw_shape(
        self, canvas: np.ndarray, corners: np.ndarray, places: np.ndarray, shape: np.ndarray, index: int
    ) -> None:
        """Draws an object of class `index` in place: its box `corners` and the `places` of its points in pixels of the
        canvas. `shape`: its points with all their numbers."""
        drawing.outline(canvas, rings(places), index)

    def agreements(self, expected: Predictions, obtained: Predictions, confidence: float) -> list[float]:
        pairs = zip(confident(expected, confidence), confident(obtained, confidence), strict=True)
        return [dice(after, before, self.similarity(after, before)) for before, after in pairs]

    def values(self, predictions: Predictions) -> list[np.ndarray]:
        return [array for image in predictions for array in (image.boxes, image.scores)]

    def confidence_shift(self, expected: Predictions, obtained: Predictions) -> float | None:
        """Median absolute change of the score, over the expected detections that score at least MIN_SCORE. A detection
        without a similar one of its class counts as a change of 1."""
        changes = []
        for before, after in zip(expected, obtained, strict=True):
            assert isinstance(before, Detections) and isinstance(after, Detections)
            confident = before.take(np.flatnonzero(before.scores >= MIN_SCORE))
            same = confident.classes[:, None] == after.classes[None]
            same &= self.similarity(confident, after) >= SAME
            for score, row in zip(confident.scores, same, strict=True):
                changes.append(abs(float(score) - float(after.scores[row].max())) if row.any() else 1.0)
        return float(np.median(changes)) if changes else None


def cut_polygons(objects: Instances, window: Window) -> Instances:
    """Polygons, clipped to a window where they cross its border, with the bounding boxes of what remains. Those with a
    small part inside are dropped, see `augmentation.clip`."""
    clipped, kept = clipped_boxes(objects.boxes, window)
    crossing = (clipped != objects.boxes).any(axis=1)
    boxes, shapes, all_shapes = [], [], objects.shapes()
    for index in np.flatnonzero(kept):
        shape, box = all_shapes[index], clipped[index]
        if crossing[index]:
            shape = clip_polygon(shape, window)
            if not len(shape):
                continue
            low, high = np.nanmin(shape, axis=0), np.nanmax(shape, axis=0)
            if (high - low < SMALLEST_SIDE).any():
                continue
            box = np.array([box[0], *low, *high], np.float32)
        boxes.append(box)
        shapes.append(shape)
    return Instances.of(boxes, shapes)


def rings(shape: np.ndarray) -> list[np.ndarray]:
    """The closed lines of a shape (p, 2), which rows of NaN separate."""
    breaks = np.flatnonzero(np.isnan(shape[:, 0]))
    if not len(breaks):
        return [shape]
    return [part[~np.isnan(part[:, 0])] for part in np.split(shape, breaks)]


def clip_polygon(shape: np.ndarray, window: Window) -> np.ndarray:
    """The part of a polygon (p, 2) inside a window (Sutherland and Hodgman, Reentrant Polygon Clipping, 1974); (0, 2)
    if there is none."""
    clipped = []
    for ring in rings(shape):
        for axis, sign, limit in ((0, 1, window[0]), (0, -1, -window[2]), (1, 1, window[1]), (1, -1, -window[3])):
            ring = _inside(ring, axis, sign, limit)
        if len(ring) > 2:
            clipped += [np.full((1, 2), np.nan, np.float32), ring]
    return np.concatenate(clipped[1:]).astype(np.float32) if clipped else np.zeros((0, 2), np.float32)


def _inside(ring: np.ndarray, axis: int, sign: int, limit: float) -> np.ndarray:
    """The part of a closed line where sign * coordinate >= limit."""
    if not len(ring):
        return ring
    distance = sign * ring[:, axis] - limit
    following, next_distance = np.roll(ring, -1, axis=0), np.roll(distance, -1)
    inside, crossing = distance >= 0, (distance >= 0) != (next_distance >= 0)
    step = np.divide(distance, distance - next_distance, out=np.zeros_like(distance), where=crossing)
    both = np.stack([ring, ring + step[:, None] * (following - ring)], axis=1)
    return both[np.stack([inside, crossing], axis=1)]
