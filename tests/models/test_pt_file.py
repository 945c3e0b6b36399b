"""`.pt` files: what they name is not run, and networks of Ultralytics come out as they were."""

from __future__ import annotations

import copy
import datetime
import logging
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics")

from compress.config import Family, ModelConfig
from compress.errors import UserError
from compress.models import build, pt_file, weights
from compress.models.ultralytics_model import UltralyticsModel
from tests.models import hostile

SIZE = 64


@pytest.mark.parametrize("make", hostile.PT, ids=lambda make: make.__name__)
def test_hostile_files_run_nothing(make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    path, sentinel = tmp_path / "best.pt", tmp_path / "code-ran"
    make(path, sentinel)
    for config in (
        ModelConfig(path=str(path)),
        ModelConfig(name="yolov8n", weights=str(path), imgsz=SIZE),
        ModelConfig(name="yolov8n", init=str(path), imgsz=SIZE),
    ):
        if make in (hostile.description, hostile.odd_facts) and config.path is None:
            continue  # only tensors are taken from it
        with pytest.raises(UserError) as caught:
            build(config)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 900
        assert not sentinel.exists()


def test_the_refusal_says_what_why_and_how(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, sentinel = tmp_path / "best.pt", tmp_path / "code-ran"
    hostile.in_model(path, sentinel)
    with pytest.raises(UserError, match=r"names posix\.system, which are not.*could run code.*model\.trust=true"):
        pt_file.read(path, "model.path")
    with caplog.at_level(logging.WARNING):
        assert pt_file.read(path, "model.path", trust=True) == {"model": 0}
    assert sentinel.exists() and "unpickled" in caplog.text


def test_names_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_import.py").write_text(f"open({str(tmp_path / 'code-ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("odd_import\nNet", "ultralytics.nn.modules.odd\nNet", "torch.nn.modules.odd\nNet"):
        hostile.by_opcodes(tmp_path / "x.pt", f"\x80\x02c{name}\n)\x81.".encode("latin1"))
        with pytest.raises(UserError):
            build(ModelConfig(path=str(tmp_path / "x.pt"), imgsz=SIZE))
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.parametrize("name", ["yolov8n", "yolo26n", "yolo26n-cls", "yolov8n-seg", "yolo11n-pose"])
def test_networks_come_out_bit_equal(name: str, tmp_path: Path) -> None:
    """As training writes them, with what stands beside the network."""
    import ultralytics.nn.tasks as tasks
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8DetectionLoss

    kind = {"cls": "ClassificationModel", "seg": "SegmentationModel", "pose": "PoseModel"}
    torch.manual_seed(0)
    net: Any = getattr(tasks, kind.get(name.partition("-")[2], "DetectionModel"))(f"{name}.yaml", verbose=False)
    net.args = IterableSimpleNamespace(imgsz=SIZE, box=7.5)
    if name == "yolov8n":
        net.args.box, net.args.cls, net.args.dfl = 7.5, 0.5, 1.5
        net.criterion = v8DetectionLoss(net)
    net.names = {index: f"class {index}" for index in range(len(net.names))}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict()
    content = {
        "epoch": 3, "best_fitness": np.float64(0.3), "model": None, "ema": copy.deepcopy(net).half(), "updates": 7,
        "optimizer": optimizer, "train_args": {"imgsz": SIZE, "data": PurePosixPath("data.yaml")},
        "train_metrics": {"fitness": np.float64(0.3)}, "train_results": {"epoch": [1]}, "version": "8",
        "date": datetime.datetime.now().isoformat(), "when": datetime.datetime.now(), "git": {"root": Path.cwd()},
    }  # fmt: skip
    torch.save(content, tmp_path / "best.pt")
    plain = torch.load(tmp_path / "best.pt", weights_only=False)["ema"].float().eval()
    if getattr(plain.model[-1], "one2one_cv2", None) is not None:
        plain.end2end = True  # as it is deployed
    model = build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE))
    assert isinstance(model, UltralyticsModel)
    result, wanted = model.net.state_dict(), plain.state_dict()
    assert list(result) == list(wanted) and all(torch.equal(result[key], wanted[key]) for key in wanted)
    with torch.no_grad():
        ours, theirs = model.net.eval()(model.example_input()), plain(model.example_input())
    assert _same(ours, theirs)
    assert all(parameter.requires_grad for key, parameter in model.net.named_parameters() if "dfl" not in key)
    weights.fill(net, weights.read(str(tmp_path / "best.pt")).tensors, "best.pt")


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (tuple, list)):
        return all(_same(one, other) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def test_state_dicts_and_shared_layers(tmp_path: Path) -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    torch.save(net.state_dict(), tmp_path / "state.pt")
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "nested.pt")
    torch.save(net, tmp_path / "net.pt")
    for name in ("state", "nested", "net"):
        result = weights.read(str(tmp_path / f"{name}.pt")).tensors
        assert all(torch.equal(result[key], value) for key, value in net.state_dict().items())
    again = pt_file.read(tmp_path / "net.pt", "model.path")
    assert again[0] is again[2] and again[0].weight.requires_grad


def test_a_network_of_ones_own_needs_trust(tmp_path: Path) -> None:
    from tests.models.toy import Net

    torch.save(Net(), tmp_path / "own.pt")
    config = ModelConfig(
        family=Family.module, target=f"{Net.__module__}.Net", weights=str(tmp_path / "own.pt"), imgsz=32
    )
    with pytest.raises(UserError, match=r"tests\.models\.toy\.Net.*model\.trust=true"):
        build(config)
    config.trust = True
    assert build(config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    net = hostile._detector()
    with torch.no_grad():
        net.model[3].conv.weight[0, 0, 0, 0] = value
    torch.save({"model": net}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"model\.3\.conv\.weight holds"):
        build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE))
    torch.save(net.state_dict(), tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"model\.3\.conv\.weight holds"):
        build(ModelConfig(name="yolov8n", weights=str(tmp_path / "state.pt"), imgsz=SIZE), ("a", "b"))


def test_layers_that_do_not_fit_each_other(tmp_path: Path) -> None:
    net = hostile._detector()
    net.model[3].conv.weight = nn.Parameter(torch.zeros(7, 5, 3, 3))
    torch.save({"model": net}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="cannot compute"):
        build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE))
    del net.model[3]._modules["conv"], net.yaml
    torch.save({"model": net}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="incomplete"):
        build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE))
