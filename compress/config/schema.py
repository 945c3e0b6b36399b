"""The configuration as dataclasses. Each checks its own values when it is made, before anything runs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from compress.config.checks import MAX_OPSET, check, check_drop, check_names, check_opset, check_plain
from compress.host import usable_threads
from compress.units import FlopsLimit

MAX_THREADS = 1024  # a larger number is a typing error, and runtimes would start as many threads
HOST = "host"  # this machine as the device
PRECISIONS = ("fp32", "fp16", "int8")


class Family(Enum):
    ultralytics = "ultralytics"
    timm = "timm"
    module = "module"
    checkpoint = "checkpoint"
    onnx = "onnx"


class Objective(Enum):
    flops = "flops"
    latency = "latency"


class Activation(Enum):
    relu = "relu"
    relu6 = "relu6"


class NumberFormat(Enum):
    """Of training on this machine; `precision=32` is fp32."""

    auto = "auto"
    fp32 = 32
    bf16 = "bf16"


class Optimizer(Enum):
    sgd = "sgd"
    adamw = "adamw"


@dataclass
class ModelConfig:
    family: Family = Family.ultralytics
    name: str | None = None  # ultralytics: architecture YAML; timm: model name
    weights: str | None = None  # name of a shipped baseline, or a .safetensors / .pt file
    init: str | None = None  # weights to start training from; tensors of other shapes stay random
    path: str | None = None  # ultralytics: best.pt; checkpoint: a folder; onnx: model.onnx
    target: str | None = None  # module: import path of a class or function, pkg.module.Net
    args: dict[str, Any] = field(default_factory=dict)  # module, timm: keyword arguments of the constructor
    trust: bool = False  # import and unpickle what files name; can be set on the command line and in Python only
    protected: list[str] = field(default_factory=list)  # additional modules whose channels are not pruned
    # null (or 0): the model's own if known, else 640 px for Ultralytics' architectures, 224 px for others, 3 channels.
    channels: int | None = None
    imgsz: int | None = None
    # Normalisation of pixels in [0, 1], one number per channel or one for all. null: the model's own, else none.
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_plain(self, "model")
        self.imgsz, self.channels = self.imgsz or None, self.channels or None
        side, channels = self.imgsz, self.channels
        check(side is None or side > 0, "model.imgsz", side, "set the input side in pixels, e.g. 256, or null")
        check(channels is None or channels > 0, "model.channels", channels, "set 1 (grey), 3 (RGB) or null")
        check(
            (self.mean is None) == (self.std is None),
            "model.std",
            self.std,
            "set model.mean and model.std, or neither",
        )
        for key, values in (("mean", self.mean), ("std", self.std)):
            good = values is None or (len(values) > 0 and all(math.isfinite(value) for value in values))
            check(good, f"model.{key}", values, "set a number for each channel, e.g. [0.5,0.5,0.5]")
        check(self.std is None or min(self.std) > 0, "model.std", self.std, "set positive numbers")

    @property
    def input(self) -> tuple[int, int]:
        """Side in pixels and channels, after `models.resolve` has filled in the model's own."""
        assert self.imgsz is not None and self.channels is not None
        return self.imgsz, self.channels


@dataclass
class DataConfig:
    name: str = "field_scenes"
    path: str | None = None  # data.yaml, or a folder of class folders
    target: str | None = None  # module: import path of a class or function, pkg.module.MyData
    args: dict[str, Any] = field(default_factory=dict)  # module: its keyword arguments
    root: str = "outputs/.data"  # folder of generated or fetched data sets
    calibration_images: int = 300
    validation_images: int | None = None  # number of images, drawn by seed and stratified; null: all
    test: bool = False  # also report accuracy on the test split; never judged
    large_validation: bool = False  # field_scenes: evaluate on the 3,000-image split

    def __post_init__(self) -> None:
        check_plain(self, "data")
        check(self.calibration_images > 0, "data.calibration_images", self.calibration_images, "set at least 1")
        validation_images = self.validation_images
        check(
            validation_images is None or validation_images > 0,
            "data.validation_images",
            validation_images,
            "set at least 1, or null for all",
        )


@dataclass
class TaskConfig:
    target: str | None = None  # import path of a task of the user's own; null: the data's

    def __post_init__(self) -> None:
        check_plain(self, "task")


@dataclass
class MetricConfig:
    target: str | None = None  # import path of a metric of the user's own; null: the task's
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments, where it is a class

    def __post_init__(self) -> None:
        check_plain(self, "metric")


@dataclass
class BudgetConfig:
    flops: str | None = None  # "50%" of the loaded model, or "1.2G"
    max_accuracy_drop: float | None = None  # absolute, against the torch FP32 baseline
    latency_ms: float | None = None
    size_mb: float | None = None
    energy_mj: float | None = None
    sram_kb: float | None = None
    flash_kb: float | None = None
    fps: float | None = None  # on the device: sets flops and latency_ms, see compress/devices/frame_rate.py

    @property
    def flops_limit(self) -> FlopsLimit | None:
        """`flops`, parsed. Raises UserError where it is neither a percentage nor a number."""
        return None if self.flops is None else FlopsLimit.parse(self.flops)

    def __post_init__(self) -> None:
        if self.max_accuracy_drop is not None:
            check_drop("budget.max_accuracy_drop", self.max_accuracy_drop)
        for name in ("latency_ms", "size_mb", "energy_mj", "sram_kb", "flash_kb"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, f"budget.{name}", value, "set a positive number, or null")
        if self.fps is not None:
            check(0 < self.fps < math.inf, "budget.fps", self.fps, "set a positive number of frames a second, e.g. 30")


@dataclass
class PruneConfig:
    ratio: float | None = None  # fraction of the channels to remove from every prunable layer
    importance: str = "group_l2"  # conf/prune/ chooses; see compress/pruning/importance.py
    images: int = 384  # training images for importances that use gradients, such as taylor
    allocation: str = "global"  # distributes the budget over layers; see compress/pruning/allocation.py
    objective: Objective = Objective.flops  # saved by the allocation `knapsack`: FLOPs, or latency measured here
    rounds: int = 1  # alternate pruning and fine-tuning; every round keeps the same fraction
    round_images: int = 2000  # image presentations between two rounds, in addition to finetune.images
    round_to: int = 16  # channels stay multiples of this; runtimes' vector units are half empty at 8
    max_ratio: float = 0.9  # no layer loses a larger fraction of its channels
    equal_split_widths: bool = False  # split blocks stay symmetric, so that a .pt for plain Ultralytics can be written

    def __post_init__(self) -> None:
        check_plain(self, "prune")
        if self.ratio is not None:
            check(0 <= self.ratio < 1, "prune.ratio", self.ratio, "set a fraction of channels in [0, 1), e.g. 0.3")
        check(self.images >= 1, "prune.images", self.images, "set at least 1")
        check(self.rounds >= 1, "prune.rounds", self.rounds, "set at least 1")
        check(self.round_images >= 1, "prune.round_images", self.round_images, "set at least 1")
        check(self.round_to >= 1, "prune.round_to", self.round_to, "set 1, 8 or 16")
        check(0 <= self.max_ratio < 1, "prune.max_ratio", self.max_ratio, "set a fraction of channels in [0, 1)")
        spends = self.objective is Objective.flops or self.allocation == "knapsack"
        check(spends, "prune.objective", self.objective.value, "only prune.allocation=knapsack spends by latency")


@dataclass
class FinetuneConfig:
    images: int = 8000  # image presentations
    batch: int = 16
    learning_rate: float | None = None  # null: 0.0015 x FLOPs before / after pruning
    optimizer: Optimizer = Optimizer.adamw
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema: float = 0.999
    # Distillation loss weight relative to the task loss. null: 1 if a teacher is named or a checkpoint's reference is
    # available, else 0. The stage train has no teacher.
    distillation: float | None = None
    teacher: str | None = None  # a checkpoint's folder, a shipped baseline or a .pt; null: the model before pruning
    bfloat16: bool | None = None  # deprecated: use `precision`
    augment: bool = True
    activation: Activation | None = None  # replaces SiLU and others before training; runtimes fuse ReLU for free

    def check(self, stage: str) -> None:
        """Raises UserError under the key of the stage it is for, `train` or `finetune`."""
        check_plain(self, stage)
        for name in ("images", "batch", "learning_rate"):
            value = getattr(self, name)
            good = value is None or (value > 0 and math.isfinite(value))
            check(good, f"{stage}.{name}", value, "set a positive number")
        for name in ("momentum", "warmup", "ema"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{stage}.{name}", value, "set a fraction in [0, 1)")
        for name in ("weight_decay", "distillation"):
            value = getattr(self, name)
            check(value is None or 0 <= value < math.inf, f"{stage}.{name}", value, "set 0 or a positive number")


@dataclass
class QuantizeConfig:
    max_accuracy_drop: float = 0.01  # absolute, against the FP32 graph in the same runtime
    search: bool = True  # try a target's schemes, and mixed precision if all lose too much; false: the first scheme
    minutes: float = 5  # search time per target; at least one candidate is made
    portable: bool = False  # only schemes that saturate on no CPU (7-bit weights)
    few_images: bool = False  # allow calibration on fewer than 32 images

    def __post_init__(self) -> None:
        check_plain(self, "quantize")
        check_drop("quantize.max_accuracy_drop", self.max_accuracy_drop)
        check(self.minutes >= 0, "quantize.minutes", self.minutes, "set 0 or more minutes of search for each target")


@dataclass
class ExportConfig:
    opset: int = 17

    def __post_init__(self) -> None:
        check_opset("export.opset", self.opset)


@dataclass
class LatencyFit:
    """`ms = a_ms + b_ms_per_gflop * GFLOPs` on one device in one runtime and precision."""

    runtime: str = "onnxruntime"  # a target's name
    precision: str = "fp32"
    a_ms: float = 1.0
    b_ms_per_gflop: float = 1.0
    error: float = 0.0  # largest relative error for a network that the line was fitted without (leave-one-out)
    gflops: list[float] = field(default_factory=lambda: [0.0, 0.0])  # smallest and largest network among those
    error_fitted: float = 0.0  # largest relative error for the networks that it was fitted on

    def __post_init__(self) -> None:
        check_plain(self, "device.fits")
        check(self.a_ms > 0, "device.fits.a_ms", self.a_ms, "set the positive milliseconds of an empty network")
        slope = self.b_ms_per_gflop
        check(slope > 0, "device.fits.b_ms_per_gflop", slope, "set the positive milliseconds of a GFLOP")
        check(len(self.gflops) == 2, "device.fits.gflops", self.gflops, "set the smallest and the largest fitted")


@dataclass
class DeviceConfig:
    name: str = HOST
    source: str = ""  # where the latencies were published
    fits: list[LatencyFit] = field(default_factory=list)  # made by scripts/fit_devices.py
    # Used by runs that name no targets.
    targets: list[str] = field(default_factory=lambda: ["onnxruntime", "openvino", "tensorrt"])
    precisions: list[str] = field(default_factory=list)  # supported by its chip, best first; empty: by measured latency
    int8_saturates: bool | None = None  # 16-bit sums of U8 x S8 products; null: measured if the device is this machine
    opset: int = MAX_OPSET  # newest ONNX opset that its runtimes read

    def __post_init__(self) -> None:
        check_plain(self, "device")
        check_opset("device.opset", self.opset)
        check_names("device.targets", self.targets)
        check_names("device.precisions", self.precisions)
        for precision in self.precisions:
            check(precision in PRECISIONS, "device.precisions", precision, f"choose from {', '.join(PRECISIONS)}")


@dataclass
class Config:
    recipe_name: str = "custom"  # default: the recipe's file name; also names the folder below outputs/
    stages: list[str] = field(default_factory=list)  # see compress/stages/__init__.py
    targets: list[str] | None = None  # null: the device's; []: none
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    train: FinetuneConfig = field(default_factory=FinetuneConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    controls: bool = False  # also fine-tune a randomly pruned model and a smaller input at the same FLOPs
    force: bool = False  # continue although the baseline is no better than guessing
    seed: int = 0
    threads: int = field(default_factory=usable_threads)  # default: what this process may use
    precision: NumberFormat = NumberFormat.auto  # of training; auto: the faster one on this machine
    cache: bool = True
    trackers: list[str] = field(default_factory=lambda: ["log"])  # see compress/trackers/__init__.py

    def __post_init__(self) -> None:
        check_name(self.recipe_name)
        check(0 <= self.seed < 2**32, "seed", self.seed, "set a whole number from 0 to 4294967295")
        most = f"set 1 to {MAX_THREADS}; this process may use {usable_threads()}"
        check(1 <= self.threads <= MAX_THREADS, "threads", self.threads, most)
        check_names("targets", self.targets or [])
        check_names("trackers", self.trackers)
        self.targets = self.device.targets if self.targets is None else self.targets
        self.export.opset = min(self.export.opset, self.device.opset)
        self.train.check("train")
        self.finetune.check("finetune")


def check_name(recipe_name: str) -> None:
    """Raises UserError for a name that cannot be that of a folder."""
    plain = re.fullmatch(r"\w[\w.+-]*", recipe_name) is not None
    check(plain, "recipe_name", recipe_name, "set letters, digits and . _ + - only: a folder is named so")


def check_required(config: Config) -> None:
    """Raises UserError if a value that conf/ marks with ??? is missing.

    OmegaConf replaces that mark by the schema's null.
    """
    model, data = config.model, config.data
    by_family = {
        Family.ultralytics: ("path", model.path or model.name),
        Family.timm: ("name", model.name),
        Family.module: ("target", model.target),
        Family.checkpoint: ("path", model.path),
        Family.onnx: ("path", model.path),
    }
    key, value = by_family[model.family]
    check(value is not None, f"model.{key}", "???", "set this value on the command line")
    if data.name in ("yolo", "image_folder"):
        check(data.path is not None, "data.path", "???", "set this value on the command line")
    if data.name == "module":
        check(data.target is not None, "data.target", "???", "set this value on the command line")
