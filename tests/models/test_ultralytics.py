from __future__ import annotations

import ast
import copy
import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("ultralytics")

from compress import checkpoint
from compress.capabilities import Teacher
from compress.config import Family, ModelConfig, PruneConfig
from compress.errors import UserError
from compress.models import build, from_constructor, save_native, ultralytics_head
from compress.models.ultralytics import UltralyticsModel
from compress.models.ultralytics_blocks import is_split
from compress.pruning.solver import prune_to_flops
from compress.tasks import DETECT
from tests.models.toy import randomise

CLASSES = ("a", "b", "c", "d", "e")
SIZE = 64


def make(name: str = "yolo26n", **given: object) -> UltralyticsModel:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=SIZE, **given), CLASSES, DETECT)  # type: ignore[arg-type]
    assert isinstance(model, UltralyticsModel)
    return model.with_net(randomise(model.net))


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "img": torch.rand(2, 3, SIZE, SIZE, generator=generator),
        "cls": torch.tensor([[0.0], [4.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2], [0.6, 0.5, 0.5, 0.6]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    }


def macs(model: UltralyticsModel) -> int:
    net = model.deployed()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(model.example_input())
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["yolo26n", "yolo11n", "yolov8n"])
def test_rewriting_keeps_the_function(name: str) -> None:
    model = make(name)
    net, protected = model.prunable()
    assert is_split(net) and not is_split(model.net)
    assert protected.keys() <= dict(net.named_modules()).keys()
    x = model.example_input(2)
    with torch.no_grad():
        before, after = (each.eval()(x)[1] for each in (model.net, net))
    for head in ("one2many", "one2one") if name == "yolo26n" else (None,):
        for key in ("boxes", "scores"):
            ours, theirs = (out[head][key] if head else out[key] for out in (after, before))
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_pruned_detector_trains_deploys_and_comes_back_from_disk(tmp_path) -> None:
    model = make()
    net, protected = model.prunable()
    budget = 0.6 * macs(model)
    pruned = prune_to_flops(
        net,
        model.example_input(),
        protected,
        PruneConfig(),
        budget_macs=budget,
        count=lambda n: macs(model.with_net(n)),
    )
    small = model.with_net(pruned.net)
    assert 0.98 * budget <= macs(small) <= budget
    average = copy.deepcopy(small.net)
    small.loss(small.net.train(), batch()).backward()
    assert all(p.grad is not None for name, p in small.net.named_parameters() if p.requires_grad)
    assert torch.isfinite(small.loss(average.eval(), batch()))
    checkpoint.save(small, tmp_path)
    again = checkpoint.load(tmp_path, from_constructor)
    x = small.example_input()
    assert torch.equal(again.deployed()(x), small.deployed()(x))
    assert again.constructor() == small.constructor() == json.loads(json.dumps(small.constructor()))
    assert again.classes == CLASSES


@pytest.mark.parametrize(("name", "shape"), [("yolo26n", (2, 84, 6)), ("yolov8n", (2, 9, 84))])
def test_deployed_gives_one_tensor_that_decodes(name: str, shape: tuple[int, ...]) -> None:
    model = make(name)
    net = model.deployed()
    x = model.example_input(2)
    out = net(x)
    assert out.shape == shape and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    with torch.no_grad():
        assert torch.allclose(out, model.net.eval()(x)[0], atol=1e-2)
    assert model.quantization_exclusions().keys() <= dict(net.named_modules()).keys()
    for found in model.decode(out.numpy()):
        assert found.boxes.shape == (len(found.scores), 4) and found.classes.dtype == np.int64
        assert np.all(np.diff(found.scores) <= 0) and np.all(found.scores > 0.001) and found.classes.max(initial=0) < 5


def test_suppression_agrees_with_ultralytics() -> None:
    from ultralytics.utils.nms import non_max_suppression

    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(1, 9, 400, generator=generator)
    raw[:, :4] *= 60
    raw[:, 4:] **= 6
    (ours,) = ultralytics_head.decode(raw.numpy(), end_to_end=False)
    (theirs,) = non_max_suppression(raw.clone(), 0.001, 0.7, multi_label=True, max_det=300)
    # Theirs moves classes 7,680 px apart, which costs float32 digits: pairs at the very threshold may differ.
    same = {(round(float(s), 5), int(c)) for s, c in zip(ours.scores, ours.classes, strict=True)} & {
        (round(float(row[4]), 5), int(row[5])) for row in theirs
    }
    assert len(ours.scores) == len(theirs) == 300 and len(same) >= 295


def test_training_moves_from_one_head_to_the_other() -> None:
    model = make()
    net, data = model.net.eval(), batch()
    model.schedule_loss(net, 0.0)
    start = model.loss(net, data)
    model.schedule_loss(net, 1.0)
    end = model.loss(net, data)
    model.schedule_loss(net, 0.5)
    middle = model.loss(net, data)
    assert start != end and torch.isclose(middle, (start + end) / 2, rtol=1e-3)


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n"])
def test_a_network_equal_to_its_teacher_has_nothing_to_learn_from_it(name: str) -> None:
    model = make(name)
    data = batch()
    teacher = Teacher(copy.deepcopy(model.net).eval(), weight=1.0)

    def pull(net: nn.Module) -> tuple[float, float]:
        """What the teacher adds to the loss, and the size of the gradient of that."""
        extra = model.loss(net, data, teacher) - model.loss(net, data, Teacher(teacher.net, weight=0.0))
        grads = torch.autograd.grad(extra, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        return extra.item(), sum(float(g.norm()) for g in grads if g is not None)

    equal, still = pull(model.net.eval())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    other, moving = pull(model.net)
    assert other > equal and moving > 100 * still


def test_a_teacher_trains_the_backbone_through_the_deployed_head_alone() -> None:
    model = make()
    net = model.net.train()
    before = type(net.model[-1])
    model.loss(net, batch(), Teacher(copy.deepcopy(net).eval(), weight=1.0)).backward()
    detect = net.model[-1]
    assert type(detect) is before and net.model[0].conv.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in (*detect.one2one_cv2.parameters(), *detect.one2one_cv3.parameters()))
    assert all(p.grad is None for p in (*detect.cv2.parameters(), *detect.cv3.parameters()))


def test_metadata_can_be_read_back() -> None:
    facts = make().metadata()
    assert ast.literal_eval(facts["names"]) == dict(enumerate(CLASSES))
    assert facts["end2end"] == "True" and facts["stride"] == "32" and ast.literal_eval(facts["imgsz"]) == [SIZE, SIZE]


def test_a_trained_pt_brings_its_classes(tmp_path, caplog) -> None:
    model = make("yolov8n")
    torch.save({"model": copy.deepcopy(model.net).half(), "ema": None}, tmp_path / "best.pt")
    config = ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE)
    with caplog.at_level(logging.WARNING):
        loaded = build(config, ("1", "2", "3", "4", "5"))
    assert "unpickled" not in caplog.text and loaded.classes == CLASSES
    assert torch.isfinite(loaded.loss(loaded.net.train(), batch()))
    with pytest.raises(UserError, match="has 5 classes, the data has 2"):
        build(config, ("x", "y"))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"name": None}, "model.name"),
        ({"name": "yolo27n"}, "model.name"),
        ({"name": "yolov10n"}, "model.name"),
        ({"name": "yolo26n-depth"}, "model.name"),
        ({"name": "yolo26n", "imgsz": 100}, "model.imgsz"),
        ({"name": "yolo26n", "weights": "atlantis"}, "model.weights"),
        ({"path": "nowhere.pt"}, "model.path"),
    ],
)
def test_a_users_mistake_names_its_key(given: dict[str, object], key: str) -> None:
    with pytest.raises(UserError) as caught:
        build(ModelConfig(**{"family": Family.ultralytics, "imgsz": SIZE} | given), CLASSES)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_weights_of_another_architecture_name_the_tensor(tmp_path) -> None:
    save_file({k: v.clone() for k, v in make("yolov8n").net.state_dict().items()}, tmp_path / "v8.safetensors")
    assert make("yolov8n", weights=str(tmp_path / "v8.safetensors"))
    with pytest.raises(UserError, match=r"tensor model\.\d+\..* (has shape|is missing)"):
        make("yolo11n", weights=str(tmp_path / "v8.safetensors"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": None}, "holds no Ultralytics model"),
        ([1, 2], "holds no Ultralytics model"),
        ({"model": {"model.0.conv.weight": torch.zeros(1)}}, "holds no Ultralytics model"),
        (nn.Conv2d(3, 3, 1), "holds no Ultralytics model"),
        (b"no pickle at all", "not in the format that torch.save writes"),
    ],
)
def test_a_pt_that_is_no_model(content: object, says: str, tmp_path) -> None:
    path = tmp_path / "odd.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=says):
        build(ModelConfig(path=str(path), imgsz=SIZE), CLASSES)


def test_a_pt_that_this_cannot_go_on_from(tmp_path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    def load(net: nn.Module, **given: object) -> None:
        torch.save({"model": net}, tmp_path / "best.pt")
        build(ModelConfig(path=str(tmp_path / "best.pt"), imgsz=SIZE, **given), CLASSES)  # type: ignore[arg-type]

    with pytest.raises(UserError, match="v10Detect head; supported heads are"):
        load(DetectionModel("yolov10n.yaml", verbose=False))
    model = make("yolov8n")
    with pytest.raises(UserError, match="fused"):
        load(copy.deepcopy(model.net).fuse(verbose=False))
    with pytest.raises(UserError, match=r"model\.channels=1.*3 channels"):
        load(model.net, channels=1)
    save_native(make("yolo26n"), tmp_path)  # holds the deployed head alone
    with pytest.raises(UserError, match="model=checkpoint"):
        build(ModelConfig(path=str(tmp_path / "model.pt"), imgsz=SIZE), CLASSES)


def test_a_checkpoint_of_another_model_or_version(tmp_path) -> None:
    checkpoint.save(make("yolov8n"), tmp_path)
    good = json.loads((tmp_path / checkpoint.FACTS).read_text())
    del good["sha256"]  # as an older version wrote it: what is tried here is what comes after that check

    def load(**facts: object) -> None:
        changed = good | {"constructor": good["constructor"] | facts}
        (tmp_path / checkpoint.FACTS).write_text(json.dumps(changed))
        checkpoint.load(tmp_path, from_constructor)

    load()
    with pytest.raises(UserError, match="tensor .* (is missing|does not exist)"):
        load(yaml=make("yolo11n").constructor()["yaml"])
    yaml = good["constructor"]["yaml"]
    with pytest.raises(UserError, match="BlockOfTomorrow.*not a layer that the installed ultralytics"):
        load(yaml=yaml | {"backbone": [[-1, 1, "BlockOfTomorrow", [64, 3, 2]], *yaml["backbone"][1:]]})
    with pytest.raises(UserError, match="HeadOfTomorrow.*not a layer that the installed"):
        load(yaml=yaml | {"head": [*yaml["head"][:-1], [[15, 18, 21], 1, "HeadOfTomorrow", ["nc"]]]})
    with pytest.raises(UserError, match="classes is 5, expected"):
        load(classes=5)
    with pytest.raises(UserError, match="multiple of the network's stride"):
        load(imgsz=100)
