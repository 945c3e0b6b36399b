"""Files that run code, or try to, where they are loaded the usual way. Each touches a sentinel file when it does."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Runs:
    """Calls `function(*given)` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *given: object) -> None:
        self.call = (function, given)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def touches(sentinel: Path) -> Runs:
    return Runs(os.system, f"touch {sentinel}")


def by_opcodes(path: Path, data: bytes) -> None:
    """A file of `torch.save` whose pickle is `data`."""
    buffer = io.BytesIO()
    torch.save({}, buffer)
    with zipfile.ZipFile(buffer) as made, zipfile.ZipFile(path, "w") as archive:
        for name in made.namelist():
            archive.writestr(name, data if name.endswith("data.pkl") else made.read(name))


def stack_global(path: Path, sentinel: Path) -> None:
    command = f"touch {sentinel}".encode()
    strings = b"\x8c\x05posix\x94\x8c\x06system\x94"
    by_opcodes(path, b"\x80\x04" + strings + b"\x93\x8c" + bytes([len(command)]) + command + b"\x85R.")


def memo(path: Path, sentinel: Path) -> None:
    """The name is put into the memo first and fetched later."""
    command = f"touch {sentinel}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    by_opcodes(path, b"\x80\x02cposix\nsystem\nq\x010h\x01" + text + b"\x85R.")


def renamed_module(path: Path, sentinel: Path) -> None:
    """Names of Python 2, which unpicklers translate."""
    command = f"touch {sentinel}".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    by_opcodes(path, b"\x80\x02c__builtin__\neval\n" + text + b"\x85R.")


def plain_pickle(path: Path, sentinel: Path) -> None:
    path.write_bytes(pickle.dumps(touches(sentinel)))


def legacy(path: Path, sentinel: Path) -> None:
    torch.save({"model": touches(sentinel)}, path, _use_new_zipfile_serialization=False)


def tar(path: Path, sentinel: Path) -> None:
    data = pickle.dumps(touches(sentinel))
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def in_model(path: Path, sentinel: Path) -> None:
    torch.save({"model": touches(sentinel)}, path)


def beside_the_model(path: Path, sentinel: Path) -> None:
    torch.save({"model": nn.Linear(1, 1), "optimizer": touches(sentinel)}, path)


def constructor(path: Path, sentinel: Path) -> None:
    """The constructor of an allowed class evaluates its argument."""
    from ultralytics.nn.tasks import DetectionModel

    act = f"__import__('os').system('touch {sentinel}')"
    yaml = {"nc": 1, "activation": act, "backbone": [[-1, 1, "Conv", [8]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    torch.save({"model": Runs(DetectionModel, yaml)}, path)


def _detector() -> Any:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", nc=2, verbose=False)


def description(path: Path, sentinel: Path) -> None:
    """A good network whose description would be evaluated when a stage builds it again."""
    net = _detector()
    net.yaml["activation"] = f"__import__('os').system('touch {sentinel}')"
    torch.save({"model": net}, path)


def torchscript(path: Path, sentinel: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(path)


def hook(path: Path, sentinel: Path) -> None:
    net = _detector()
    net.model[0].register_forward_hook(nn.Linear(1, 1))
    torch.save({"model": net}, path)


def method(path: Path, sentinel: Path) -> None:
    net = _detector()
    net.model[0].__dict__["forward"] = nn.Identity
    torch.save({"model": net}, path)


def foreign_attribute(path: Path, sentinel: Path) -> None:
    net = _detector()
    net.model[0].extra = Path("x")
    torch.save({"model": net}, path)


def itself(path: Path, sentinel: Path) -> None:
    net = _detector()
    net.model[0].conv._modules["inner"] = net
    torch.save({"model": net}, path)


def without_state(path: Path, sentinel: Path) -> None:
    torch.save({"model": Runs(nn.Linear, 1, 1)}, path)


def spread_tensor(path: Path, sentinel: Path) -> None:
    """One number that says it is 4 TB."""
    torch.save({"model": {"a": torch.zeros(1).expand(10**6, 10**6)}}, path)


def tensors_for_networks(path: Path, sentinel: Path) -> None:
    torch.save({"ema": torch.zeros(3), "model": torch.zeros(3), "train_args": [1]}, path)


def odd_facts(path: Path, sentinel: Path) -> None:
    net = _detector()
    net.yaml["channels"], net.names = "three", 5
    torch.save({"model": net, "train_args": {"imgsz": 10**9}}, path)


def bomb(path: Path, sentinel: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}." + bytes(10**7))
        archive.writestr("x/version", b"3\n")


def deep(path: Path, sentinel: Path) -> None:
    by_opcodes(path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def cut(path: Path, sentinel: Path) -> None:
    torch.save({"model": nn.Linear(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:-200])


PT = (
    stack_global, memo, renamed_module, plain_pickle, legacy, tar, in_model, beside_the_model, constructor, description,
    torchscript, hook, method, foreign_attribute, itself, without_state, spread_tensor,
    tensors_for_networks, odd_facts, bomb, deep, cut,
)  # fmt: skip
