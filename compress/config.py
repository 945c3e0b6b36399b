"""The typed configuration, checked before anything runs.

Hydra composes `conf/`, `recipes/` and the command line onto these dataclasses. `to_config` converts the result into
plain dataclasses once; the rest of the package does not depend on Hydra.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from compress import config_aliases, config_messages, config_sources
from compress.errors import UserError
from compress.host import usable_threads
from compress.units import FlopsLimit

_HERE = Path(__file__).resolve().parent
# A wheel carries conf/ and recipes/ inside the package (pyproject force-includes them); a checkout beside it.
_ROOT = _HERE if (_HERE / "conf").is_dir() else _HERE.parent
CONF, RECIPES = _ROOT / "conf", _ROOT / "recipes"


COMPOSING = (HydraException, OmegaConfBaseException, ValueError)  # raised by Hydra for a mistake in a config
MAX_OPSET = 20
MAX_THREADS = 1024  # a larger number is a typing error, and runtimes would start as many threads
MOST = 2**32  # upper limit of counts: a larger number is a typing error
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


def _check_drop(key: str, value: float) -> None:
    _check(-1 < value < 1, key, value, "accuracies are fractions: set 0.01 for one point of a hundred")


def _check(condition: bool, key: str, value: object, remedy: str) -> None:
    if not condition:
        raise UserError(key, value, remedy)


def _check_opset(key: str, value: int) -> None:
    limit = f"set 11 to {MAX_OPSET}: static quantization and torch's exporter end at {MAX_OPSET}"
    _check(11 <= value <= MAX_OPSET, key, value, limit)


def _check_names(key: str, names: Sequence[str]) -> None:
    good = all(name and name.strip() for name in names) and len(set(names)) == len(names)
    _check(good, key, names, "name each once, and none that is empty")


def _check_plain(part: object, key: str) -> None:
    """Raises UserError for an empty string, a number that is not finite, or a count above MOST in a dataclass."""
    for each in fields(part):  # type: ignore[arg-type]
        name, value = f"{key}.{each.name}".lstrip("."), getattr(part, each.name)
        if isinstance(value, str):
            blank = " or null" if "None" in str(each.type) else ""
            _check(bool(value.strip()) or each.default == "", name, repr(value), f"it is empty: set a text{blank}")
        elif isinstance(value, int):
            _check(abs(value) <= MOST, name, value, f"set at most {MOST}")
        elif isinstance(value, float):
            _check(math.isfinite(value), name, value, "set a finite number")


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
        _check_plain(self, "model")
        self.imgsz, self.channels = self.imgsz or None, self.channels or None
        side, channels = self.imgsz, self.channels
        _check(side is None or side > 0, "model.imgsz", side, "set the input side in pixels, e.g. 256, or null")
        _check(channels is None or channels > 0, "model.channels", channels, "set 1 (grey), 3 (RGB) or null")
        _check(
            (self.mean is None) == (self.std is None),
            "model.std",
            self.std,
            "set model.mean and model.std, or neither",
        )
        for key, values in (("mean", self.mean), ("std", self.std)):
            good = values is None or (len(values) > 0 and all(math.isfinite(value) for value in values))
            _check(good, f"model.{key}", values, "set a number for each channel, e.g. [0.5,0.5,0.5]")
        _check(self.std is None or min(self.std) > 0, "model.std", self.std, "set positive numbers")

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
        _check_plain(self, "data")
        _check(self.calibration_images > 0, "data.calibration_images", self.calibration_images, "set at least 1")
        asked = self.validation_images
        _check(asked is None or asked > 0, "data.validation_images", asked, "set at least 1, or null for all")


@dataclass
class TaskConfig:
    target: str | None = None  # import path of a task of the user's own; null: the data's

    def __post_init__(self) -> None:
        _check_plain(self, "task")


@dataclass
class MetricConfig:
    target: str | None = None  # import path of a metric of the user's own; null: the task's
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments, where it is a class

    def __post_init__(self) -> None:
        _check_plain(self, "metric")


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
            _check_drop("budget.max_accuracy_drop", self.max_accuracy_drop)
        for name in ("latency_ms", "size_mb", "energy_mj", "sram_kb", "flash_kb"):
            value = getattr(self, name)
            _check(value is None or 0 < value < math.inf, f"budget.{name}", value, "set a positive number, or null")
        if self.fps is not None:
            _check(0 < self.fps < math.inf, "budget.fps", self.fps, "set a positive number of frames a second, e.g. 30")


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
        _check_plain(self, "prune")
        if self.ratio is not None:
            _check(0 <= self.ratio < 1, "prune.ratio", self.ratio, "set a fraction of channels in [0, 1), e.g. 0.3")
        _check(self.images >= 1, "prune.images", self.images, "set at least 1")
        _check(self.rounds >= 1, "prune.rounds", self.rounds, "set at least 1")
        _check(self.round_images >= 1, "prune.round_images", self.round_images, "set at least 1")
        _check(self.round_to >= 1, "prune.round_to", self.round_to, "set 1, 8 or 16")
        _check(0 <= self.max_ratio < 1, "prune.max_ratio", self.max_ratio, "set a fraction of channels in [0, 1)")
        spends = self.objective is Objective.flops or self.allocation == "knapsack"
        _check(spends, "prune.objective", self.objective.value, "only prune.allocation=knapsack spends by latency")


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
        _check_plain(self, stage)
        for name in ("images", "batch", "learning_rate"):
            value = getattr(self, name)
            good = value is None or (value > 0 and math.isfinite(value))
            _check(good, f"{stage}.{name}", value, "set a positive number")
        for name in ("momentum", "warmup", "ema"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"{stage}.{name}", value, "set a fraction in [0, 1)")
        for name in ("weight_decay", "distillation"):
            value = getattr(self, name)
            _check(value is None or 0 <= value < math.inf, f"{stage}.{name}", value, "set 0 or a positive number")


@dataclass
class QuantizeConfig:
    max_accuracy_drop: float = 0.01  # absolute, against the FP32 graph in the same runtime
    search: bool = True  # try a target's schemes, and mixed precision if all lose too much; false: the first scheme
    minutes: float = 5  # search time per target; at least one candidate is made
    portable: bool = False  # only schemes that saturate on no CPU (7-bit weights)
    few_images: bool = False  # allow calibration on fewer than 32 images

    def __post_init__(self) -> None:
        _check_plain(self, "quantize")
        _check_drop("quantize.max_accuracy_drop", self.max_accuracy_drop)
        _check(self.minutes >= 0, "quantize.minutes", self.minutes, "set 0 or more minutes of search for each target")


@dataclass
class ExportConfig:
    opset: int = 17

    def __post_init__(self) -> None:
        _check_opset("export.opset", self.opset)


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
        _check_plain(self, "device.fits")
        _check(self.a_ms > 0, "device.fits.a_ms", self.a_ms, "set the positive milliseconds of an empty network")
        slope = self.b_ms_per_gflop
        _check(slope > 0, "device.fits.b_ms_per_gflop", slope, "set the positive milliseconds of a GFLOP")
        _check(len(self.gflops) == 2, "device.fits.gflops", self.gflops, "set the smallest and the largest fitted")


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
        _check_plain(self, "device")
        _check_opset("device.opset", self.opset)
        _check_names("device.targets", self.targets)
        _check_names("device.precisions", self.precisions)
        for precision in self.precisions:
            _check(precision in PRECISIONS, "device.precisions", precision, f"choose from {', '.join(PRECISIONS)}")


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
        _check(0 <= self.seed < 2**32, "seed", self.seed, "set a whole number from 0 to 4294967295")
        most = f"set 1 to {MAX_THREADS}; this process may use {usable_threads()}"
        _check(1 <= self.threads <= MAX_THREADS, "threads", self.threads, most)
        _check_names("targets", self.targets or [])
        _check_names("trackers", self.trackers)
        self.targets = self.device.targets if self.targets is None else self.targets
        self.export.opset = min(self.export.opset, self.device.opset)
        self.train.check("train")
        self.finetune.check("finetune")


def check_name(recipe_name: str) -> None:
    """Raises UserError for a name that cannot be that of a folder."""
    plain = re.fullmatch(r"\w[\w.+-]*", recipe_name) is not None
    _check(plain, "recipe_name", recipe_name, "set letters, digits and . _ + - only: a folder is named so")


def to_config(composed: DictConfig) -> Config:
    """Plain dataclasses from what Hydra composed. Raises UserError for a value of the wrong type or out of range."""
    # Hydra lets `+key=value` add what the schema does not know; merging onto a fresh schema does not.
    typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(composed))
    try:
        config = OmegaConf.to_object(typed)
    except MissingMandatoryValue as error:
        raise UserError(error.full_key or "recipe", "???", "set this value on the command line") from None
    assert isinstance(config, Config)
    _check_needed(config)
    return config


def _check_needed(config: Config) -> None:
    """Checks the values that conf/ marks with ???: OmegaConf replaces that mark by the schema's null."""
    model, data = config.model, config.data
    by_family = {
        Family.ultralytics: ("path", model.path or model.name),
        Family.timm: ("name", model.name),
        Family.module: ("target", model.target),
        Family.checkpoint: ("path", model.path),
        Family.onnx: ("path", model.path),
    }
    key, value = by_family[model.family]
    _check(value is not None, f"model.{key}", "???", "set this value on the command line")
    if data.name in ("yolo", "image_folder"):
        _check(data.path is not None, "data.path", "???", "set this value on the command line")
    if data.name == "module":
        _check(data.target is not None, "data.target", "???", "set this value on the command line")


def dump(config: Config) -> str:
    """The composed configuration as YAML, as written into a run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read(run: Path) -> Config:
    """The configuration that `dump` wrote into a run folder. Raises UserError where there is none, or one that this
    version does not understand."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError("run", run, "no run folder: it holds no config.yaml")
    try:
        known = config_aliases.tree(OmegaConf.to_container(OmegaConf.load(path)))
        return to_config(OmegaConf.merge(OmegaConf.structured(Config), known))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(str(path), "unreadable", f"of another version of this program? {explain(error)}") from error


def register(words: Sequence[str] = ()) -> None:
    """Registers the schema and every file in `recipes/` with Hydra, and checks files from elsewhere (`config_sources`).

    Recipes are beside `conf/`, not inside it, since users read them first. Hydra's search path cannot name a folder
    relative to the package, so each file is stored under the group `recipe`.

    Args:
        words: the command-line overrides; import paths among them are allowed.
    """
    config_sources.guard((CONF, RECIPES), words)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for file in sorted(RECIPES.glob("*.yaml")):
        node = OmegaConf.merge({"recipe_name": file.stem}, OmegaConf.load(file))
        store.store(group="recipe", name=file.stem, package="_global_", node=node)


def compose(overrides: list[str]) -> Config:
    """The config that `python -m compress <overrides>` runs with; for library users and tests."""
    overrides = config_aliases.overrides(overrides)
    register(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return to_config(hydra_compose("config", overrides))
        except COMPOSING as error:
            raise explain(error, overrides) from error


def explain(error: Exception, words: Sequence[str] = ()) -> UserError:
    """Converts Hydra's or OmegaConf's error into one with key, value and remedy; `words` are the overrides."""
    return config_messages.refusal(error, Config, words)
