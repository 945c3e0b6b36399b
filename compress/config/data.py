"""The configuration of a data set, its task and the metric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compress.config.checks import check, check_each, check_plain

SPLITS = ("train", "val", "test")  # keys of data.annotations
DATA_TASKS = ("detect", "segment", "pose", "obb", "semantic")  # values of data.task
TASK_FORMATS = ("coco", "field_scenes", "yolo")  # data=… with labels for more than one task
MAX_WORKERS = 128


@dataclass
class DataConfig:
    name: str = "field_scenes"
    path: str | None = None  # data.yaml, or a folder
    task: str | None = None  # coco, field_scenes, yolo: which labels to read; null: those of the model's task
    annotations: dict[str, Any] = field(default_factory=dict)  # coco: JSON files by split; null: the usual ones
    classes: list[str] | None = None  # voc, masks: names of the classes, in order; null: from the files
    target: str | None = None  # module: import path of a class or function, pkg.module.MyData
    args: dict[str, Any] = field(default_factory=dict)  # module: keyword arguments for `target`
    root: str = "outputs/.data"  # folder of generated or fetched data sets
    calibration_images: int = 300
    validation_images: int | None = None  # size of a stratified random sample, drawn with `seed`; null: all images
    test: bool = False  # also report accuracy on the test split; it decides nothing
    large_validation: bool = False  # field_scenes: evaluate on the 3,000-image split
    workers: int | None = None  # processes that decode and augment training images; null: chosen; 0: a thread
    labels: bool = True  # false: labels are ignored, and results are compared with the unpruned model's predictions
    confidence: float = 0.25  # labels=false: predictions of the unpruned model that count, from this score on
    validation_fraction: float = 0.1  # images: fraction held out for validation, if there are no folders of splits

    def __post_init__(self) -> None:
        check_plain(self, "data")
        without = "data=images has no labels: set data.labels=false, or choose a data set with labels"
        check(not self.labels or self.name != "images", "data.labels", self.labels, without)
        check(0 < self.confidence < 1, "data.confidence", self.confidence, "set a score in (0, 1), e.g. 0.25")
        good, remedy = 0 < self.validation_fraction <= 0.5, "set a fraction in (0, 0.5], e.g. 0.1"
        check(good, "data.validation_fraction", self.validation_fraction, remedy)
        check_each(self, "data", ["calibration_images"], "set at least 1")
        check_each(self, "data", ["validation_images"], "set at least 1, or null for all")
        if self.task is not None:
            check(self.task in DATA_TASKS, "data.task", self.task, f"set one of {', '.join(DATA_TASKS)}, or null")
            remedy = f"only data={', '.join(TASK_FORMATS)} read it: remove it"
            check(self.name in TASK_FORMATS, "data.task", self.task, remedy)
        for key, value in self.annotations.items():
            good = key in SPLITS and (value is None or isinstance(value, str))
            check(good, f"data.annotations.{key}", value, f"set a file name for {', '.join(SPLITS)}")
        named = [value for value in self.annotations.values() if value is not None]
        check(not named or self.name == "coco", "data.annotations", named, "only data=coco reads it: remove it")
        remedy = "only data=voc and data=masks read it: remove it"
        check(self.classes is None or self.name in ("voc", "masks"), "data.classes", self.classes, remedy)
        good = self.workers is None or 0 <= self.workers <= MAX_WORKERS
        check(good, "data.workers", self.workers, f"set 0 to {MAX_WORKERS} processes, or null")


@dataclass
class TaskConfig:
    target: str | None = None  # import path of a user-defined task; null: the task of the data set

    def __post_init__(self) -> None:
        check_plain(self, "task")


@dataclass
class MetricConfig:
    name: str | None = None  # a metric of the task, such as top5 or mAP50; null: its usual one
    target: str | None = None  # import path of a user-defined metric
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments for `target`, if it is a class

    def __post_init__(self) -> None:
        check_plain(self, "metric")
        both = self.name is not None and self.target is not None
        check(not both, "metric.target", self.target, f"metric.name={self.name} is set too: set one of them")
