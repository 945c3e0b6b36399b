"""What `model.target` and checkpoints may have imported and called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import compress
from compress import checkpoint
from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models import build, check_files, rebuilder
from tests.models import odd_modules
from tests.models.toy import Net, plain


def signed(folder: Path, change: dict[str, Any]) -> None:
    """Alters the constructor in `folder`, with valid hashes, as whoever alters a file can."""
    content = json.loads((folder / checkpoint.DESCRIPTION).read_text())
    content["constructor"] |= change
    del content["sha256"]
    (folder / checkpoint.DESCRIPTION).write_text(json.dumps(content | {"sha256": checkpoint.digest(content)}))


def small(**given: Any) -> ModelConfig:
    return ModelConfig(family=Family.module, target="compress.examples.small_cnn.SmallCNN", imgsz=32, **given)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(plain(small()), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    "target", ["os.system", "posix.system", "compress.examples.small_cnn.nn.Linear",
               "compress.examples.small_cnn.torch",
               "compress.examples.small_cnn._convolution", "compress.examples.small_cnn", "", None, 3, ["os.system"]],
)  # fmt: skip
def test_a_checkpoint_may_not_name_other_code(saved: Path, sentinel: Path, target: object) -> None:
    signed(saved, {"target": target, "args": {"command": f"touch {sentinel}"}})
    with pytest.raises(UserError):
        compress.load(saved)
    assert not sentinel.exists()


def test_python_s_own_functions_are_not_called_even_when_trusted(saved: Path, sentinel: Path) -> None:
    signed(saved, {"target": "os.system", "args": {"command": f"touch {sentinel}"}})
    with pytest.raises(UserError, match=r"os\.system"):
        compress.load(saved, trust=True)
    with pytest.raises(UserError, match=r"os\.system"):
        build(ModelConfig(family=Family.module, target="os.system", args={"command": f"touch {sentinel}"}))
    assert not sentinel.exists()


def test_ones_own_network_comes_back_where_it_is_trusted(tmp_path: Path) -> None:
    model = plain(ModelConfig(family=Family.module, target=f"{Net.__module__}.Net", imgsz=32, args={"width": 24}))
    checkpoint.save(model, tmp_path)
    with pytest.raises(UserError, match=r"tests\.models\.toy\.Net.*model\.trust=true"):
        compress.load(tmp_path)
    with pytest.raises(UserError, match=r"model\.trust=true"):
        build(ModelConfig(family=Family.checkpoint, path=str(tmp_path)))
    x = model.example_input()
    for again in (
        compress.load(tmp_path, trust=True),
        plain(ModelConfig(family=Family.checkpoint, path=str(tmp_path), trust=True)),
        checkpoint.load(tmp_path, rebuilder(model)),  # a product of the run that named the target itself
    ):
        assert torch.equal(again.net.eval()(x), model.net.eval()(x))
    signed(tmp_path, {"target": f"{Net.__module__}.broken"})
    with pytest.raises(UserError, match=r"broken.*model\.trust=true"):
        checkpoint.load(tmp_path, rebuilder(model))


@pytest.mark.parametrize(
    "change",
    [
        {"imgsz": 10**9}, {"imgsz": -32}, {"imgsz": True}, {"imgsz": 32.0}, {"channels": -1}, {"channels": 10**6},
        {"classes": []}, {"classes": "abc"}, {"classes": list(range(10))}, {"classes": ["x"] * 1_000_000},
        {"classes": ["x"] * 9}, {"protected": 3}, {"activation": ["relu"]}, {"activation": "os.system"},
        {"args": {"width": 10**6}}, {"args": {"width": -1}}, {"args": {"width": 10**12}}, {"args": {"width": "x"}},
        {"args": []}, {"args": {"classes": 10**12}}, {"family": "timm", "name": "resnet18", "args": {"pretrained": 1}},
        {"family": "timm", "name": "resnet18", "args": {"checkpoint_path": "/etc/passwd"}},
        {"family": "timm", "name": "hf-hub:timm/resnet18", "args": {}},
        {"family": "timm", "name": "resnet18", "args": {"num_classes": 10**10}},
        {"family": ["module"]}, {"family": None},
    ],
)  # fmt: skip
def test_altered_facts_are_one_error(saved: Path, change: dict[str, Any]) -> None:
    signed(saved, change)
    with pytest.raises(UserError) as caught:
        compress.load(saved)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["{" * 100_000, '{"a":' * 100_000, '{"schema_version": 1, "schema_version": 1}', "NaN", "1" * 5000, "\0"]
)
def test_odd_json_is_one_error(saved: Path, text: str) -> None:
    (saved / checkpoint.DESCRIPTION).write_text(text)
    with pytest.raises(UserError):
        compress.load(saved)


def retensored(saved: Path, change: dict[str, torch.Tensor]) -> None:
    """Other tensors in `saved`, with valid hashes."""
    import hashlib

    content, tensors = checkpoint.read(saved)
    data = checkpoint.serialise(tensors | change)
    (saved / checkpoint.TENSORS).write_bytes(data)
    content["tensors"]["sha256"] = hashlib.sha256(data).hexdigest()
    (saved / checkpoint.DESCRIPTION).write_text(json.dumps(content | {"sha256": checkpoint.digest(content)}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head.bias": torch.full((10,), torch.nan)}, "NaN"),
        ({"stem.0.weight": torch.full((32, 3, 3, 3), torch.inf)}, "infinite"),
        ({"stem.1.running_var": torch.full((32,), torch.nan)}, "NaN"),
        ({"first.0.0.weight": torch.zeros(32, 31, 3, 3)}, "cannot compute"),
        ({"stem.0.weight": torch.zeros(0, 3, 3, 3)}, "empty"),
        ({"head.bias": torch.zeros(11)}, "cannot compute"),
        ({"head.weight": torch.zeros(10, 10**6)}, "cannot compute"),
        ({"stem.0.weight": torch.full((32, 3, 3, 3), 3e38)}, "returns NaN"),
        ({"head.bias": torch.zeros(10, dtype=torch.int64)}, "int64"),
    ],
)
def test_tensors_that_no_network_computes_with(saved: Path, change: dict[str, torch.Tensor], says: str) -> None:
    retensored(saved, change)
    with pytest.raises(UserError, match=says):
        compress.load(saved)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("odd_raises.Net", "RuntimeError: no weights today"), ("odd_exits.Net", "SystemExit: 3"),
        ("odd_syntax.Net", "SyntaxError"), ("odd_names.system", "builtin_function"), ("odd_names.os", "a module"),
        ("odd_names.math.sqrt", "cannot be imported"), ("odd_names.number", "a int"),
        ("odd_names.Plain", "class Plain"),
        ("odd_names.made", "a Linear"), ("odd_names.bound", "a partial"), ("odd_names.exits", "SystemExit: 3"),
        ("odd_names.gives", "returns int"), ("odd_names.missing", "cannot be imported"), ("Net", "cannot be imported"),
        (".Net", "cannot be imported"), ("subprocess.call", "part of Python itself"),
        ("torch.load", "a subclass of torch.nn.Module"), ("odd_names.Exits", "SystemExit: 4"),
        ("odd_names.Three", r"returns \[3, 10\]"), ("odd_names.Nothing", "returns NaN"),
    ],
)  # fmt: skip
def test_odd_targets_are_one_error(target: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd_modules.write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=says) as caught:
        build(ModelConfig(family=Family.module, target=target, imgsz=32))
    assert "\n" not in str(caught.value)


def test_a_module_that_prints_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd_modules.write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert build(ModelConfig(family=Family.module, target="odd_prints.Net", imgsz=32)).classes


@pytest.mark.parametrize("key", ["weights", "init"])
def test_integers_are_no_weights(key: str, tmp_path: Path) -> None:
    tensors = plain(small()).net.state_dict() | {"head.bias": torch.zeros(10, dtype=torch.int64)}
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"head\.bias holds int64"):
        build(small(**{key: str(tmp_path / "odd.safetensors")}))


def test_an_input_of_absurd_size_is_refused_before_work() -> None:
    with pytest.raises(UserError, match="at most 16384"):
        check_files(ModelConfig(name="yolo26n", imgsz=10**9))
