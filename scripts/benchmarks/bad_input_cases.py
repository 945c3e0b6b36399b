"""Table of invalid inputs: command, set-up and expected error. `bad_input.py` runs them."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import compress
from compress.config import Config
from compress.config.device import FIGURES

BASE = ("recipe=digits", "stages=[prune]", "targets=[]", "threads=1", "cache=false")
TIMM = ("model=timm", "model.name=mobilenetv3_small_050", "model.imgsz=32")
YOLO = (
    "recipe=drone_nano",
    "model=yolo26n",
    "model.imgsz=64",
    "data=yolo",
    "threads=1",
    "stages=[prune]",
    "targets=[]",
)

Setup = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One invalid input.

    Attributes:
        arguments: command-line arguments of `program`: "compress", "report", "cache" or "profile".
        status: expected exit status.
        mentions: words that the error line must contain.
        setup: function that prepares the working folder, which is empty otherwise.
        call: function to call if `program` is "library".
        environment: environment variables to set, or to remove (None).
        work: let the run start, since the error appears only then.
        root: run on a small file system, which only root can mount.
    """

    name: str
    arguments: tuple[str, ...] = ()
    status: int = 2
    program: str = "compress"
    mentions: tuple[str, ...] = ()
    setup: Setup | None = None
    call: Callable[[], Any] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    work: bool = False
    root: bool = False


# --- every key of the config ----------------------------------------------------------------------------------

BARE = json.dumps({"schema_version": 1, "latency_ms": None})
HUGE = "1" + "0" * 30
# Keys for which negative values or zero are valid.
SIGNED = {"budget.max_accuracy_drop", "quantize.max_accuracy_drop"}
ZERO_IS_GOOD = {
    *("model.channels", "model.imgsz", "prune.ratio", "prune.max_ratio", "quantize.minutes", "seed", "data.workers"),
    *(f"{stage}.{key}" for stage in ("train", "finetune") for key in ("momentum", "weight_decay", "warmup", "ema")),
    *(f"{stage}.distillation" for stage in ("train", "finetune")),
    *SIGNED,
}
# Skipped: collections of dataclasses, and free text.
_SKIPPED = {"device.peak_gops"}
_SKIPPED |= {f"device.{name}.source" for name in FIGURES}


def keys(kind: type = Config, before: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Yields the full name of every configuration key, its type, and whether null is allowed."""
    for name, hint in typing.get_type_hints(kind).items():
        options = [option for option in typing.get_args(hint) if option is not type(None)] or [hint]
        optional = type(None) in typing.get_args(hint)
        bare = options[0] if optional else hint
        full = f"{before}{name}"
        if full in _SKIPPED:
            continue
        if dataclasses.is_dataclass(bare):
            yield from keys(typing.cast(type, bare), f"{full}.")
        else:
            yield full, bare, optional


def bad_values(key: str, kind: Any, optional: bool) -> Iterator[str]:
    if kind is bool:
        yield from ("maybe", "[true]")
    elif kind is int:
        yield from ("abc", "1.5", "nan", "-1", HUGE)
        if key not in ZERO_IS_GOOD:
            yield "0"
    elif kind is float:
        yield from ("abc", "nan", "inf", "[1,2]", "-1" if key not in SIGNED else "-7")
        if key not in ZERO_IS_GOOD:
            yield "0"
    elif kind is str:
        yield from ("[a,b]", "''")
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from ("abc", "''")
    elif typing.get_origin(kind) is list:
        yield from ("abc", "{a: 1}")
    elif typing.get_origin(kind) is dict:
        yield from ("abc", "[1]")
    if not optional and kind in (bool, int, float, str):
        yield "null"


def of_keys() -> Iterator[Case]:
    for key, kind, optional in keys():
        for value in bad_values(key, kind, optional):
            mentions = (key.rsplit(".", 1)[-1],) if value == "''" else (key.rsplit(".", 1)[-1], value.strip("'[]{}"))
            if value == HUGE:
                mentions = mentions[:1]
            yield Case(f"{key}={value[:12]}", (*BASE, f"{key}={value}"), mentions=mentions)


# --- files ----------------------------------------------------------------------------------------------------


def text(name: str, content: str = "this is no such file\n") -> Setup:
    def write() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)

    return write


def folder(name: str) -> Setup:
    return lambda: Path(name).mkdir(parents=True)


def both(*setups: Setup) -> Setup:
    return lambda: [setup() for setup in setups]


def picture(path: Path, side: int = 32, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 255, (side, side, channels), dtype=np.uint8)
    cv2.imwrite(str(path), noise)


def class_folders(splits: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("cat", "dog")) -> Setup:
    def write() -> None:
        for split in splits:
            for name in classes:
                for index in range(4):
                    picture(Path("images", split, name, f"{index}.png"))

    return write


def scenes(label: str = "0 0.5 0.5 0.2 0.2\n", listing: str | None = None) -> Setup:
    def write() -> None:
        for split in ("train", "val"):
            for index in range(4):
                picture(Path("scenes/images", split, f"{index}.png"), 64)
                file = Path("scenes/labels", split, f"{index}.txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(label)
        Path("scenes/data.yaml").write_text(
            "path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n" if listing is None else listing
        )

    return write


def pickled(name: str, content: Callable[[], Any]) -> Setup:
    return lambda: torch.save(content(), name)


def tensors(name: str) -> Setup:
    return lambda: save_file({"odd.weight": torch.zeros(4, 3)}, name)


def onnx_file(name: str, inputs: int = 1, rank: int = 4) -> Setup:
    def write() -> None:
        from onnx import TensorProto, helper, save

        shape = [1, 3, 8, 8][:rank]
        sources = [helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape) for index in range(inputs)]
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        nodes = [helper.make_node("Relu", ["x0"], ["y"])]
        graph = helper.make_graph(nodes, "g", sources, [result])
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), name)

    return write


def of_files() -> Iterator[Case]:
    names = {"ultralytics": "best.pt", "onnx": "net.onnx", "checkpoint": "pruned"}
    for model, name in names.items():
        start: tuple[str, ...] = (*BASE, f"model={model}", f"model.path={name}")
        start += ("stages=[quantize]", "targets=[onnxruntime]") if model == "onnx" else ()
        yield Case(f"{model}: missing", start, mentions=(name,))
        yield Case(f"{model}: text", start, mentions=(name,), setup=text(name))
        yield Case(f"{model}: empty", start, mentions=(name,), setup=text(name, ""))
        yield Case(f"{model}: a folder", start, mentions=(name,), setup=folder(name))
        yield Case(f"{model}: no path", (*BASE, f"model={model}"), mentions=("model.",))
    start = (*BASE, "model=ultralytics", "model.path=best.pt")
    yield Case("pt: a list", start, setup=pickled("best.pt", lambda: [1, 2]), mentions=("best.pt",))
    yield Case("pt: a state dict", start, setup=pickled("best.pt", nn.Linear(2, 2).state_dict), mentions=("best.pt",))
    yield Case("pt: a layer", start, setup=pickled("best.pt", lambda: nn.Linear(2, 2)), mentions=("best.pt",))
    yield Case("pt: model null", start, setup=pickled("best.pt", lambda: {"model": None}), mentions=("best.pt",))
    start = (*BASE, "model=onnx", "model.path=net.onnx", "stages=[quantize]", "targets=[onnxruntime]")
    yield Case(
        "onnx: wrong suffix", (*start[:-3], "model.path=a.txt", *start[-2:]), setup=text("a.txt"), mentions=("a.txt",)
    )
    yield Case("onnx: two inputs", start, setup=onnx_file("net.onnx", inputs=2), mentions=("net.onnx",))
    yield Case("onnx: no images", start, setup=onnx_file("net.onnx", rank=2), mentions=("net.onnx",))
    yield Case("onnx: no classes of digits", start, setup=onnx_file("net.onnx"), mentions=("model",))
    yield Case(
        "onnx: cut", start, setup=lambda: Path("net.onnx").write_bytes(b"\x08\x08\x12\x04abc"), mentions=("net.onnx",)
    )
    start = (*BASE, "model=checkpoint", "model.path=pruned")
    for kind, content in {"no JSON": "{", "a list": "[]", "empty": "", "no fields": "{}", "null": "null"}.items():
        for file in ("model.json", "architecture.json"):
            yield Case(f"checkpoint: {file} {kind}", start, setup=text(f"pruned/{file}", content), mentions=("pruned",))
    for key in ("weights", "init"):
        for kind, setup in {
            "missing": None,
            "text": text("w.safetensors"),
            "empty": text("w.safetensors", ""),
            "folder": folder("w.safetensors"),
            "unfitting": tensors("w.safetensors"),
        }.items():
            if key == "init" and kind == "unfitting":
                continue
            yield Case(
                f"model.{key}: {kind}", (*BASE, f"model.{key}=w.safetensors"), setup=setup, mentions=("w.safetensors",)
            )
        yield Case(f"model.{key}: suffix", (*BASE, f"model.{key}=w.bin"), setup=text("w.bin"), mentions=("w.bin",))
        yield Case(f"model.{key}: pt text", (*BASE, f"model.{key}=w.pt"), setup=text("w.pt"), mentions=("w.pt",))
    start = (*BASE, "finetune.teacher=t", "stages=[prune,finetune]", "finetune.images=64")
    yield Case("teacher: missing", start, mentions=("teacher",))
    yield Case("teacher: text", start, setup=text("t"), mentions=("teacher",))
    yield Case("teacher: empty folder", start, setup=folder("t"), mentions=("teacher",))
    start = (*BASE, *TIMM, "data=image_folder", "data.path=images")
    yield Case("image_folder: missing", start, mentions=("images",))
    yield Case("image_folder: a file", start, setup=text("images"), mentions=("images",))
    yield Case("image_folder: empty", start, setup=folder("images"), mentions=("images",))
    yield Case("image_folder: no path", (*BASE, *TIMM, "data=image_folder"), mentions=("data.path",))
    yield Case("image_folder: no val", start, setup=class_folders(("train",)), mentions=("val",))
    yield Case(
        "image_folder: empty class", start, setup=both(class_folders(), folder("images/val/empty")), mentions=("empty",)
    )
    broken = both(class_folders(), text("images/val/cat/broken.png"))
    yield Case("image_folder: no picture", start, setup=broken, mentions=("broken.png",))
    zero = both(class_folders(), text("images/train/dog/zero.jpg", ""))
    yield Case("image_folder: empty picture", start, setup=zero, mentions=("zero.jpg",))
    for name, file in {"coco": "annotations/instances_val2017.json", "voc": "Annotations/0.xml"}.items():
        start = tuple(word.replace("data=yolo", f"data={name}") for word in YOLO)
        yield Case(f"{name}: no path", start, mentions=("data.path",))
        start = (*start, "data.path=own")
        yield Case(f"{name}: missing", start, mentions=("data.path", "own"))
        yield Case(f"{name}: empty", start, setup=folder("own"), mentions=("own", "val"))
        image = both(text("own/ImageSets/Main/val.txt", "0\n"), lambda: picture(Path("own/JPEGImages/0.png")))
        for kind, content in {
            "empty": "",
            "text": "hello",
            "entities": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        }.items():
            broken = both(image, text(f"own/{file}", content))
            yield Case(f"{name}: {kind}", start, setup=broken, mentions=(Path(file).name,))
    start = (*YOLO, "data.path=scenes/data.yaml")
    yield Case("yolo: missing", start, mentions=("scenes/data.yaml",))
    yield Case("yolo: no path", YOLO, mentions=("data.path",))
    yield Case("yolo: a folder", start, setup=folder("scenes/data.yaml"), mentions=("data.yaml",))
    for kind, listing in {
        "empty": "",
        "text": "hello",
        "a list": "[1]",
        "no YAML": "{a: [",
        "no names": "train: images/train\nval: images/val\n",
        "no val": "train: images/train\nnames: [thing]\n",
        "missing folder": "train: images/nowhere\nval: images/val\nnames: [thing]\n",
        "names a number": "train: images/train\nval: images/val\nnames: 3\n",
        "nc contradicts": "train: images/train\nval: images/val\nnames: [thing]\nnc: 4\n",
    }.items():
        yield Case(f"yolo: {kind}", start, setup=scenes(listing=listing), mentions=("data.yaml",))
    for kind, label in {
        "class": "7 0.5 0.5 0.2 0.2\n",
        "negative": "-1 0.5 0.5 0.2 0.2\n",
        "words": "cat 0.5 0.5 0.2 0.2\n",
        "four": "0 0.5 0.5 0.2\n",
        "nan": "0 nan 0.5 0.2 0.2\n",
        "outside": "0 5 0.5 0.2 0.2\n",
    }.items():
        yield Case(f"yolo: label {kind}", start, setup=scenes(label), mentions=(".txt",))


# --- groups, syntax, contradictions ---------------------------------------------------------------------------


def of_command_line() -> Iterator[Case]:
    for group in ("recipe", "model", "data", "device", "prune", "finetune", "quantize", "export"):
        start = () if group == "recipe" else BASE
        yield Case(f"group {group}: unknown", (*start, f"{group}=nonsense"), mentions=(group, "nonsense"))
        yield Case(f"group {group}: empty", (*start, f"{group}="), mentions=(group,))
    yield Case("no recipe", (), mentions=("recipe",))
    yield Case("recipe: a path", ("recipe=../../etc/passwd",), mentions=("recipe",))
    for name, words in {
        "no equal sign": ("seed",),
        "no key": ("=3",),
        "open bracket": ("stages=[prune",),
        "open quote": ("budget.flops='50%",),
        "unknown key": ("prune.rato=0.3",),
        "unknown key, added": ("+prune.rato=0.3",),
        "unknown group": ("launcher=fast",),
        "deleted unknown": ("~nothing",),
        "sweep without -m": ("prune.ratio=0.1,0.2",),
        "unknown option": ("--fast",),
        "option without value": ("--config-dir",),
        "config-dir missing": ("--config-dir", "nowhere"),
        "config-name missing": ("--config-name", "nowhere"),
        "interpolation": ("seed=${nothing}",),
        "environment": ("model.name=${oc.env:NOT_SET_AT_ALL}",),
        "spaces": ("budget.flops = 50%",),
        "group as key": ("prune.ratio.more=1",),
        "scalar for group": ("prune=3",),
        "dict for group": ("budget={nothing: 1}",),
        "unicode key": ("größe=3",),
        "null byte in text": ("recipe_name='a\tb'",),
        "recipe_name a path": ("recipe_name=../up",),
        "recipe_name empty": ("recipe_name=''",),
        "recipe_name dots": ("recipe_name=..",),
        "two positional modes": ("run", "run"),
    }.items():
        yield Case(name, (*BASE, *words))
    for name, words, mentions in (
        ("ratio and flops", ("prune.ratio=0.3", "budget.flops=50%"), ("prune.ratio", "budget.flops")),
        ("neither", ("budget.flops=null",), ("prune.ratio", "budget.flops")),
        ("fps and flops", ("device=jetson_orin_nano", "budget.fps=30"), ("fps", "flops")),
        ("fps on host", ("budget.fps=30", "budget.flops=null"), ("fps", "device")),
        (
            "fps that no network reaches",
            ("budget.fps=9000", "budget.flops=null", "device=raspberry_pi_5", "targets=[onnxruntime]"),
            ("budget.fps=9000", "ms"),
        ),
        (
            "latency without figures",
            ("budget.latency_ms=9", "budget.flops=null", "device=hailo_8", "targets=[onnxruntime]"),
            ("hailo_8", "peak"),
        ),
        ("latency of this machine decides", ("budget.latency_ms=9", "budget.flops=null"), ("budget.latency_ms",)),
        ("stages out of order", ("stages=[finetune,prune]",), ("stages", "order")),
        ("stage twice", ("stages=[prune,prune]",), ("stages",)),
        ("unknown stage", ("stages=[shrink]",), ("shrink",)),
        ("stages of null", ("stages=[null]",), ("stages",)),
        ("unknown target", ("targets=[abacus]",), ("abacus",)),
        ("target twice", ("targets=[onnxruntime,onnxruntime]",), ("targets", "onnxruntime")),
        ("empty target", ("targets=['']",), ("targets",)),
        ("target of null", ("targets=[null]",), ("targets",)),
        ("controls without finetune", ("controls=true",), ("controls",)),
        ("latency objective", ("prune.objective=latency",), ("prune.objective",)),
        ("unknown importance", ("prune.importance=luck",), ("luck",)),
        ("unknown allocation", ("prune.allocation=luck",), ("luck",)),
        ("unreachable, small", ("budget.flops=0.01%",), ("budget.flops", "reaches")),
        ("unreachable, large", ("budget.flops=500G",), ("budget.flops",)),
        ("flops over 100%", ("budget.flops=150%",), ("budget.flops",)),
        ("flops 0%", ("budget.flops=0%",), ("budget.flops",)),
        ("flops negative", ("budget.flops=-50%",), ("budget.flops",)),
        ("flops nan", ("budget.flops=nan",), ("budget.flops",)),
        ("flops inf", ("budget.flops=inf",), ("budget.flops",)),
        ("flops nan%", ("budget.flops=nan%",), ("budget.flops",)),
        ("flops 1.2Q", ("budget.flops=1.2Q",), ("budget.flops",)),
        ("flops word", ("budget.flops=plenty",), ("budget.flops", "plenty")),
        ("unknown data", ("data.name=nonsense",), ("nonsense",)),
        ("unknown timm", ("model=timm", "model.name=no_such_net"), ("no_such_net",)),
        ("timm without name", ("model=timm",), ("model.name",)),
        ("timm bad args", (*TIMM, "model.args={nothing: 3}"), ("model.args",)),
        ("unknown ultralytics", ("model=ultralytics", "model.name=yolo99z"), ("yolo99z",)),
        ("module without target", ("model=module",), ("model.target",)),
        ("module no package", ("model=module", "model.target=nowhere.Net"), ("nowhere",)),
        ("module no attribute", ("model=module", "model.target=torch.nn.Nothing"), ("Nothing",)),
        ("module no path", ("model=module", "model.target=Net"), ("model.target",)),
        ("module no module", ("model=module", "model.target=math.sqrt"), ("model.target",)),
        ("module bad args", ("model=module", "model.target=torch.nn.Linear"), ("model",)),
        (
            "module of odd shape",
            ("model=module", "model.target=torch.nn.Linear", "model.args={in_features: 3, out_features: 2}"),
            ("model",),
        ),
        ("detector on digits", ("model=yolo26n",), ("data", "classify")),
        ("classifier on scenes", ("data=field_scenes",), ("data", "detect")),
        ("channels 7", ("model.channels=7",), ("channels",)),
        ("imgsz huge", ("model.imgsz=1000000",), ("imgsz",)),
        ("mean without std", ("model.mean=[0.5]",), ("model.std",)),
        ("std zero", ("model.mean=[0.5]", "model.std=[0]"), ("model.std",)),
        ("std nan", ("model.mean=[0.5]", "model.std=[nan]"), ("model.std",)),
        ("mean of two", ("model.mean=[0.5,0.5]", "model.std=[1,1]"), ("model.mean",)),
        ("mean empty", ("model.mean=[]", "model.std=[]"), ("model.mean",)),
        ("protected unknown", ("model.protected=[nothing]",), ("model.protected", "nothing")),
        ("equal halves", ("prune.equal_split_widths=true",), ("equal_split_widths",)),
        ("opset 5", ("export.opset=5",), ("opset",)),
        ("precisions", ("device.precisions=[int3]",), ("int3",)),
        ("drop 2", ("budget.max_accuracy_drop=2",), ("max_accuracy_drop",)),
        ("no data, with targets", ("data=none", "stages=[]", "targets=[onnxruntime]"), ("targets",)),
        ("no data, train", ("data=none", "stages=[train,prune]"), ("data",)),
        ("ema huge rate", ("stages=[train,prune]", "train.ema=2"), ("ema",)),
        ("key of a dictionary", ("model.args.nothing=1",), ("+model.args.nothing=1",)),
        (
            "calibration of two",
            ("stages=[prune,quantize]", "targets=[onnxruntime]", "data.calibration_images=2"),
            ("calibration",),
        ),
    ):
        yield Case(name, (*BASE, *words), mentions=mentions)
    yield Case("sweep: unknown key", ("-m", *BASE, "prune.rato=0.1,0.2"))
    yield Case("sweep: unknown choice", ("-m", *BASE, "prune=taylor,nonsense"))
    yield Case("sweep: wrong type", ("-m", *BASE, "seed=1,lots"))


# --- report, cache, library, environment ----------------------------------------------------------------------


def of_programs() -> Iterator[Case]:
    ledger = both(text("run/ledger.jsonl", ""), text("run/config.yaml", ""))
    for name, words, setup in (
        ("report: nothing", (), None),
        ("report: missing", ("nowhere",), None),
        ("report: a file", ("run",), text("run")),
        ("report: empty folder", ("run",), folder("run")),
        ("report: bad ledger", ("run",), text("run/ledger.jsonl", "{oops\n")),
        ("report: ledger of lists", ("run",), text("run/ledger.jsonl", "[1]\n")),
        ("report: ledger without fields", ("run",), text("run/ledger.jsonl", "{}\n")),
        ("report: two runs", ("a", "b"), None),
        ("report: option", ("--fast",), None),
        ("report compare: nothing", ("compare",), None),
        ("report compare: missing", ("compare", "a", "b"), None),
        ("report add: nothing", ("add",), None),
        ("report add: one", ("add", "run"), None),
        ("report add: missing run", ("add", "run", "bench.json"), text("bench.json", "{}")),
        ("report add: missing bench", ("add", "run", "bench.json"), ledger),
        ("report add: no JSON", ("add", "run", "bench.json"), both(ledger, text("bench.json", "{"))),
        ("report add: list", ("add", "run", "bench.json"), both(ledger, text("bench.json", "[]"))),
        ("report add: no fields", ("add", "run", "bench.json"), both(ledger, text("bench.json", "{}"))),
        ("report add: null fields", ("add", "run", "bench.json"), both(ledger, text("bench.json", BARE))),
        ("report add: a folder", ("add", "run", "bench.json"), both(ledger, folder("bench.json"))),
    ):  # fmt: skip
        yield Case(name, words, program="report", setup=setup)
    for name, words in (
        ("cache: nothing", ()),
        ("cache: unknown", ("shrink",)),
        ("cache: option", ("list", "--fast")),
        ("cache: keep words", ("prune", "--keep-gb", "some")),
        ("cache: keep nan", ("prune", "--keep-gb", "nan")),
        ("cache: keep negative", ("prune", "--keep-gb", "-1")),
        ("cache: keep inf", ("prune", "--keep-gb", "inf")),
        ("cache: keep nothing", ("prune", "--keep-gb")),
    ):
        yield Case(name, words, program="cache")
    yield Case("cache: root a file", ("--root", "c", "list"), program="cache", setup=text("c"), mentions=("c",))
    yield Case("cache: root missing", ("--root", "nowhere", "list"), program="cache", mentions=("nowhere",))


def network(
    name: str = "net.onnx", side: int | str = 16, operator: str = "Relu", weights_in: str | None = None
) -> Setup:
    """An ONNX file of a convolution and another operator; `weights_in` names a file with its weights."""

    def write() -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="/conv/Conv")]
        nodes.append(helper.make_node(operator, ["c"], ["y"], name="/last/last"))
        shape = (1, 3, side, side)
        ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
        weights = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
        if weights_in is not None:
            weights.ClearField("raw_data")
            weights.data_location = TensorProto.EXTERNAL
            entry = weights.external_data.add()
            entry.key, entry.value = "location", weights_in
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weights])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), name)

    return write


def files(contents: dict[str, str | bytes]) -> Setup:
    """Writes files, in folders that are created."""

    def write() -> None:
        for name, content in contents.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def of_profile() -> Iterator[Case]:
    bare = files({"own/device/bare.yaml": "name: bare\ntargets: [onnxruntime]\nprecisions: [fp32]\n"})
    own = ("--devices", "bare", "--config-dir", "own")
    tflite = ("damaged",) if find_spec("ai_edge_litert") else ("[litert]",)
    for name, arguments, mentions, setup in (
        ("no such model", ("resnet2O",), ("resnet20",), None),
        ("unknown device", ("resnet20", "--devices", "raspbery_pi_5"), ("raspberry_pi_5",), None),
        ("no device", ("resnet20", "--devices", ""), ("device",), None),
        ("device without figures", ("resnet20", *own), ("bare", "no FP32 peak", "add"), bare),
        ("open dimensions", ("net.onnx",), ("net.onnx", "--imgsz"), network(side="side")),
        ("weights elsewhere", ("net.onnx",), ("net.onnx", "../w.bin", "move"), network(weights_in="../w.bin")),
        ("weights missing", ("net.onnx",), ("net.onnx", "w.bin"), network(weights_in="w.bin")),
        ("unknown operator", ("net.onnx",), ("net.onnx", "Det", "--unknown"), network(operator="Det")),
        ("no .xml", ("none.xml",), ("none.xml", ".bin"), None),
        ("no .bin", ("net.xml",), ("net.xml", "net.bin"), text("net.xml")),
        ("broken .xml", ("net.xml",), ("net.xml", "damaged"), files({"net.xml": "<net", "net.bin": b""})),
        ("other .xml", ("net.xml",), ("net.xml", "damaged"), files({"net.xml": "<annotation/>", "net.bin": b""})),
        ("no .tflite", ("none.tflite",), ("none.tflite",), None),
        ("garbage .tflite", ("net.tflite",), tflite, files({"net.tflite": b"x" * 5000})),
        ("empty .tflite", ("net.tflite",), tflite, files({"net.tflite": b""})),
    ):
        yield Case(f"profile: {name}", (*arguments, "--threads", "1"), 2, "profile", mentions, setup)
    start = ("recipe=digits", "prune=latency", "targets=[]", "threads=1", "cache=false")
    yield Case("latency of an unknown device", (*start, "device=raspbery_pi_5"), mentions=("raspberry_pi_5",))
    yield Case("latency without figures", (*start, "device=hailo_8"), mentions=("hailo_8", "bandwidth", "add"))


def of_library() -> Iterator[Case]:
    calls: dict[str, Callable[[], Any]] = {
        "compose: text": lambda: compress.compose("recipe=digits"),  # type: ignore[arg-type]
        "compose: number": lambda: compress.compose(3),  # type: ignore[arg-type]
        "compose: list of numbers": lambda: compress.compose([3]),  # type: ignore[list-item]
        "compose: None": lambda: compress.compose(None),  # type: ignore[arg-type]
        "load: missing": lambda: compress.load("nowhere"),
        "load: number": lambda: compress.load(3),  # type: ignore[arg-type]
        "load: None": lambda: compress.load(None),  # type: ignore[arg-type]
        "prune: text": lambda: compress.prune("abc", "50%"),  # type: ignore[type-var]
        "prune: bare module": lambda: compress.prune(nn.Linear(2, 2), "50%"),  # type: ignore[type-var]
        "get_flops: text": lambda: compress.get_flops("abc"),  # type: ignore[arg-type]
        "get_flops: imgsz text": lambda: compress.get_flops(nn.Conv2d(3, 3, 1), "abc"),  # type: ignore[arg-type]
        "get_flops: imgsz negative": lambda: compress.get_flops(nn.Conv2d(3, 3, 1), -1),
        "measure: text": lambda: compress.measure("abc", torch.zeros(1)),  # type: ignore[arg-type]
        "measure: input of text": lambda: compress.measure(nn.Conv2d(3, 3, 1), "abc"),  # type: ignore[arg-type]
        "run: text": lambda: compress.run("recipe=digits"),  # type: ignore[arg-type]
        "run: list": lambda: compress.run(["recipe=digits"]),  # type: ignore[arg-type]
        "PruneConfig: ratio": lambda: compress.PruneConfig(ratio=7),
        "PruneConfig: ratio nan": lambda: compress.PruneConfig(ratio=float("nan")),
    }
    for name, call in calls.items():
        yield Case(name, program="library", call=call)


def of_environment() -> Iterator[Case]:
    yield Case("outputs a file", BASE, setup=text("outputs"), mentions=("outputs",))
    yield Case("outputs/.cache a file", BASE, setup=text("outputs/.cache"), mentions=(".cache",))
    yield Case("outputs/digits a file", BASE, setup=text("outputs/digits"), mentions=("outputs/digits",))
    if not find_spec("ai_edge_litert"):
        yield Case("absent extra", (*BASE, "targets=[litert]"), mentions=("litert", "pip install"))
    yield Case("run folder a file", (*BASE, "hydra.run.dir=here"), setup=text("here"), mentions=("here",))
    yield Case("TMPDIR missing", (*BASE, "prune.ratio=7"), environment={"TMPDIR": "/nowhere/at/all"})
    yield Case("HOME unset", (*BASE, "prune.ratio=7"), environment={"HOME": None})
    yield Case("THREADS words", (*BASE, "prune.ratio=7"), environment={"OMP_NUM_THREADS": "many"})
    yield Case("full disk", BASE, status=1, work=True, root=True)


def cases() -> list[Case]:
    return [
        *of_command_line(),
        *of_files(),
        *of_programs(),
        *of_profile(),
        *of_library(),
        *of_environment(),
        *of_keys(),
    ]
