"""The configuration as dataclasses, which check their values when they are constructed, before anything runs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from compress.config.checks import check, check_drop, check_each, check_list, check_names, check_opset, check_plain
from compress.config.data import DataConfig, MetricConfig, TaskConfig
from compress.config.device import DeviceConfig
from compress.config.mission import MissionConfig
from compress.host import usable_threads
from compress.units import FlopsLimit

MAX_CHANNELS = 128  # of an image in OpenCV 5
MAX_THREADS = 1024  # a larger number must be a typo, and runtimes would start that many threads


def _fraction(value: float) -> bool:
    return 0 <= value < 1


class Family(Enum):
    ultralytics = "ultralytics"
    timm = "timm"
    module = "module"
    checkpoint = "checkpoint"
    onnx = "onnx"


class Objective(Enum):
    flops = "flops"
    latency = "latency"


class Measure(Enum):
    reuse = "reuse"
    again = "again"


class Activation(Enum):
    relu = "relu"
    relu6 = "relu6"


class NumberFormat(Enum):
    auto = "auto"
    fp32 = 32
    bf16 = "bf16"
    fp16 = 16


class Accelerator(Enum):
    """Hardware that trains and evaluates networks; auto: a GPU if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


BALANCED = "balanced"  # value of `class_weights`
BATCH = 16  # images per step of training, by default


class Optimizer(Enum):
    sgd = "sgd"
    adamw = "adamw"


@dataclass
class ModelConfig:
    family: Family = Family.ultralytics
    name: str | None = None  # ultralytics: architecture YAML; timm: model name
    weights: str | None = None  # name of a shipped baseline, or a .safetensors / .pt file
    init: str | None = None  # initial weights for training; tensors whose shape differs from the model's stay random
    path: str | None = None  # ultralytics: best.pt; checkpoint: a folder; onnx: model.onnx
    target: str | None = None  # module: import path of a class or function, pkg.module.Net
    args: dict[str, Any] = field(default_factory=dict)  # module, timm: keyword arguments of the constructor
    trust: bool = False  # import and unpickle code that files name; settable only on the command line or in Python
    protected: list[str] = field(default_factory=list)  # modules that keep their channels, besides the model's own
    # null (or 0): the model's own if known; otherwise 3 channels, and 640 px for Ultralytics, 224 px for others.
    channels: int | None = None  # of the input
    imgsz: int | None = None  # side of the square input, in pixels
    # Normalisation of pixels in [0, 1], one number per channel or one for all. null: the model's own, else none.
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_plain(self, "model")
        self.imgsz, self.channels = self.imgsz or None, self.channels or None
        check_each(self, "model", ["imgsz"], "set the input side in pixels, e.g. 256, or null")
        good = self.channels is None or 0 < self.channels <= MAX_CHANNELS
        remedy = f"set 1 (grey), 3 (RGB), another number up to {MAX_CHANNELS}, or null"
        check(good, "model.channels", self.channels, remedy)
        both = (self.mean is None) == (self.std is None)
        check(both, "model.std", self.std, "set both model.mean and model.std, or neither")
        for key, values in (("mean", self.mean), ("std", self.std)):
            good = values is None or (len(values) > 0 and all(math.isfinite(value) for value in values))
            check(good, f"model.{key}", values, "set a number for each channel, e.g. [0.5,0.5,0.5]")
        check(self.std is None or min(self.std) > 0, "model.std", self.std, "set positive numbers")

    @property
    def input(self) -> tuple[int, int]:
        """Input side in pixels and number of channels, after `models.resolve` has replaced null."""
        assert self.imgsz is not None and self.channels is not None
        return self.imgsz, self.channels


@dataclass
class BudgetConfig:
    flops: str | None = None  # at model.imgsz: "50%" of the loaded model, or "1.2G"
    max_accuracy_drop: float | None = None  # absolute, 0.01 is one percentage point; against the torch FP32 baseline
    # Median of one image, measured on the device. If neither flops nor prune.ratio is set, the stage prune searches the
    # FLOPs whose latency predicted for the device meets it.
    latency_ms: float | None = None
    size_mb: float | None = None  # of an artifact's model files, 10^6 bytes
    energy_mj: float | None = None  # of one image
    sram_kb: float | None = None  # tensor arena, 1024 bytes
    flash_kb: float | None = None  # model file, 1024 bytes
    fps: float | None = None  # on the device: sets latency_ms, see compress/devices/frame_rate.py

    @property
    def flops_limit(self) -> FlopsLimit | None:
        """`flops`, parsed. Raises UserError if it is neither a percentage nor a number."""
        return None if self.flops is None else FlopsLimit.parse(self.flops)

    def __post_init__(self) -> None:
        if self.max_accuracy_drop is not None:
            check_drop("budget.max_accuracy_drop", self.max_accuracy_drop)
        names = ("latency_ms", "size_mb", "energy_mj", "sram_kb", "flash_kb")
        check_each(self, "budget", names, "set a positive number, or null")
        check_each(self, "budget", ["fps"], "set a positive number of frames a second, e.g. 30")


@dataclass
class PruneConfig:
    ratio: float | None = None  # fraction of the channels to remove from every prunable layer
    importance: str = "group_l2"  # ranks channels; conf/prune/ selects it, see compress/pruning/importance.py
    images: int = 384  # training images for importances that use gradients, such as taylor
    allocation: str = "global"  # method that distributes the budget over layers; see compress/pruning/allocation.py
    objective: Objective = Objective.flops  # what the allocation `knapsack` reduces: FLOPs, or latency on this machine
    rounds: int = 1  # pruning rounds with fine-tuning between them; each keeps the same fraction of the FLOPs
    round_images: int = 2000  # training images, counting repetitions, between two rounds; added to finetune.images
    round_to: int = 16  # channel counts stay multiples of this; 8 would half fill the vector registers of runtimes
    max_ratio: float = 0.9  # no layer loses a larger fraction of its channels
    equal_split_widths: bool = False  # both halves of split blocks (C2f) stay equal: plain Ultralytics reads the .pt

    def __post_init__(self) -> None:
        check_plain(self, "prune")
        check_each(self, "prune", ["ratio"], "set a fraction of channels in [0, 1), e.g. 0.3", _fraction)
        check_each(self, "prune", ["images", "rounds", "round_images"], "set at least 1")
        check_each(self, "prune", ["round_to"], "set at least 1, e.g. 8 or 16")
        check_each(self, "prune", ["max_ratio"], "set a fraction of channels in [0, 1)", _fraction)
        supported = self.objective is Objective.flops or self.allocation == "knapsack"
        check(supported, "prune.objective", self.objective.value, "latency needs prune.allocation=knapsack")


@dataclass
class ReconstructConfig:
    images: int = 300  # training images, without their labels
    max_growth: float = 10.0  # bound on the norm of the weights of an output channel, relative to before

    def __post_init__(self) -> None:
        check_plain(self, "reconstruct")
        check_each(self, "reconstruct", ["images"], "set at least 2", lambda value: value >= 2)
        check_each(self, "reconstruct", ["max_growth"], "set a factor from 1, e.g. 10", lambda value: value >= 1)


@dataclass
class FinetuneConfig:
    images: int = 8000  # training images, counting repetitions
    batch: Any = BATCH  # images per step; auto: 16, computed in as many parts as the memory needs
    accumulate: int | None = 1  # parts of a batch computed one after another, to save memory; null: as few as fit
    learning_rate: float | None = None  # null: 0.0015 x (FLOPs before pruning / FLOPs after pruning)
    optimizer: Optimizer = Optimizer.adamw
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1  # fraction of the steps
    ema: float = 0.999  # decay per step of the moving average of the weights; 0: none
    # Distillation loss weight relative to the task loss. null: 1 if a teacher is set, without labels, or if a pruned
    # checkpoint is fine-tuned and its unpruned model can be loaded; otherwise 0. The stage `train` has no teacher.
    distillation: float | None = None
    teacher: str | None = None  # a checkpoint's folder, a shipped baseline or a .pt; null: the model before pruning
    augment: bool = True
    # Weights of the classes in a classifier's loss: a number for each, or balanced: inversely proportional to their
    # numbers of training images. null: all images count the same.
    class_weights: Any = None
    activation: Activation | None = None  # replaces SiLU and the like before training. Runtimes fuse ReLU at no cost

    def check(self, stage: str) -> None:
        """Raises UserError for an invalid value. `stage`, `train` or `finetune`, is the prefix of the key."""
        if self.batch == "auto":
            self.batch, self.accumulate = BATCH, None
        check(type(self.batch) is int, f"{stage}.batch", self.batch, "set a whole number from 1, or auto")
        check_plain(self, stage)
        check_each(self, stage, ["images", "batch", "learning_rate", "accumulate"], "set a positive number")
        check_each(self, stage, ["momentum", "warmup", "ema"], "set a fraction in [0, 1)", _fraction)
        if self.class_weights not in (None, BALANCED):
            remedy = f"set {BALANCED}, a list with a positive number for each class, or null"
            check_list(f"{stage}.class_weights", self.class_weights, remedy)
        not_negative = ["weight_decay", "distillation"]
        check_each(self, stage, not_negative, "set 0 or a positive number", lambda value: 0 <= value < math.inf)


@dataclass
class QuantizeConfig:
    max_accuracy_drop: float = 0.01  # absolute, against the FP32 graph in the same runtime
    search: bool = True  # try all schemes, then mixed precision if all lose too much accuracy; false: use the first
    minutes: float = 5  # search time per target; at least one candidate is made
    portable: bool = False  # use only schemes that cannot saturate on any CPU (7-bit weights)
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
class MlflowConfig:
    # Address of a server, or a database such as sqlite:///outputs/mlflow.db. null: MLFLOW_TRACKING_URI, else that file.
    tracking_uri: str | None = None
    experiment: str | None = None  # null: recipe_name

    def __post_init__(self) -> None:
        check_plain(self, "mlflow")
        good = self.tracking_uri is None or re.fullmatch(r"databricks|[a-z][a-z0-9+.-]*:.+", self.tracking_uri)
        remedy = "set an address such as http://127.0.0.1:5000 or sqlite:///outputs/mlflow.db, or null"
        check(bool(good), "mlflow.tracking_uri", self.tracking_uri, remedy)


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
    mission: MissionConfig = field(default_factory=MissionConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    train: FinetuneConfig = field(default_factory=FinetuneConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    controls: bool = False  # also fine-tune models of equal FLOPs: randomly pruned, and unpruned with a smaller input
    force: bool = False  # continue even if the baseline is no better than guessing
    seed: int = 0
    threads: int = field(default_factory=usable_threads)  # default: what this process may use
    accelerator: Accelerator = Accelerator.auto  # what trains and evaluates; `device` is the deployment device
    devices: Any = 1  # how many GPUs, or processes on a CPU; auto: all GPUs; [0, 1]: these GPUs
    precision: NumberFormat = NumberFormat.auto  # of training; auto: the faster one on this machine; 32: fp32; 16: fp16
    compile: bool = False  # compile networks for training with torch.compile
    cache: bool = True
    measure: Measure = Measure.reuse  # of unchanged products on this machine: reuse measurements in the cache, or again
    trackers: list[str] = field(default_factory=lambda: ["log"])  # see compress/trackers/__init__.py
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)  # of the tracker mlflow

    def __post_init__(self) -> None:
        check_name(self.recipe_name)
        check(0 <= self.seed < 2**32, "seed", self.seed, "set a whole number from 0 to 4294967295")
        hint = f"set 1 to {MAX_THREADS}; this process may use {usable_threads()}"
        check(1 <= self.threads <= MAX_THREADS, "threads", self.threads, hint)
        check_devices(self.devices)
        check_names("targets", self.targets or [])
        check_names("trackers", self.trackers)
        self.targets = self.device.targets if self.targets is None else self.targets
        self.export.opset = min(self.export.opset, self.device.opset)
        self.train.check("train")
        self.finetune.check("finetune")


def check_devices(devices: object) -> None:
    """Raises UserError if `devices` is neither a number, nor "auto", nor a list of different indices."""
    good = devices == "auto" or (type(devices) is int and devices >= 1)
    if isinstance(devices, list):
        whole = all(type(index) is int and index >= 0 for index in devices)
        good = bool(devices) and whole and len(set(devices)) == len(devices)
    check(good, "devices", devices, "set a number from 1, auto, or different indices of GPUs such as [0,1]")


def check_name(recipe_name: str) -> None:
    """Raises UserError if `recipe_name` cannot be the name of a folder."""
    remedy = "use only letters, digits and . _ + -, with a letter or digit first: the output folder gets this name"
    check(re.fullmatch(r"\w[\w.+-]*", recipe_name) is not None, "recipe_name", recipe_name, remedy)


def check_required(config: Config) -> None:
    """Raises UserError if a value that conf/ marks with ??? is missing.

    OmegaConf replaces the mark by the default of the schema, null, and reports nothing.
    """
    model, data = config.model, config.data
    by_family = {
        Family.ultralytics: ("model.path", model.path or model.name),
        Family.timm: ("model.name", model.name),
        Family.module: ("model.target", model.target),
        Family.checkpoint: ("model.path", model.path),
        Family.onnx: ("model.path", model.path),
    }
    path, target = ("data.path", data.path), ("data.target", data.target)
    by_data = {name: [path] for name in ("coco", "image_folder", "images", "voc", "yolo")} | {"module": [target]}
    for key, value in (by_family[model.family], *by_data.get(data.name, [])):
        check(value is not None, key, "???", "set this value on the command line")
