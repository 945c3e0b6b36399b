"""Networks for masks, keypoints and turned boxes: trained, distilled, decoded and measured."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

pytest.importorskip("ultralytics")

from compress.capabilities import Evaluable, Teacher, Trainable
from compress.config import ModelConfig
from compress.errors import UserError
from compress.models import build, from_constructor, ultralytics
from compress.models.ultralytics_model import UltralyticsDetector
from compress.tasks import OBB, POSE, SEGMENT, Instances, InstanceTask, check_same
from compress.tasks.augmentation import Augmentation
from tests.models.toy import enliven
from tests.tasks.shapes import corners, pose

SIZE = 64
TASKS: dict[str, InstanceTask] = {"-seg": SEGMENT, "-pose": pose(), "-obb": OBB}
NAMES = [f"{family}{suffix}" for suffix in TASKS for family in ("yolov8n", "yolo26n")]


def task_of(name: str) -> InstanceTask:
    return TASKS[name[name.index("-") :]]


@cache
def _made(name: str) -> UltralyticsDetector:
    torch.manual_seed(0)
    model = build(ModelConfig(name=name, imgsz=SIZE), ("a", "b"), task_of(name))
    assert isinstance(model, UltralyticsDetector) and isinstance(model, Trainable) and isinstance(model, Evaluable)
    return model.with_net(enliven(model.net, model.example_input()))


def made(name: str) -> UltralyticsDetector:
    model = _made(name)
    return model.with_net(copy.deepcopy(model.net))


def targets(task: InstanceTask) -> list[Instances]:
    """Two objects in the first image, one in the second, none in the third."""
    boxes = [[0, 4, 8, 40, 30], [1, 20, 20, 60, 60], [0, 10, 30, 50, 62]]
    shapes = [corners(*box[1:]) for box in boxes]
    if task.columns == 3:
        shapes = [np.column_stack([shape, np.full(4, 2)]) for shape in shapes]
    every = Instances.of(boxes, shapes, task.columns)
    return [every.take([0, 1]), every.take([2]), every.take([])]


def batch(task: InstanceTask) -> dict[str, torch.Tensor]:
    images = [np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for seed in range(3)]
    return task.collate(images, targets(task), Augmentation(), None)


def outputs(model: UltralyticsDetector, images: torch.Tensor, postprocess: bool = True) -> Any:
    with torch.no_grad():
        return tree_map(lambda tensor: tensor.numpy(), model.deployed(postprocess=postprocess)(images))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reduces_the_loss_and_reaches_the_task_s_own_layers(name: str) -> None:
    model, data = made(name), batch(task_of(name))
    net = model.net.train()
    model.schedule_loss(net, 0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model.loss(net, data)
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert np.isfinite(losses).all() and losses[1] < losses[0]
    own = [p.grad for n, p in net.model[-1].named_parameters() if "cv4" in n and p.grad is not None]
    assert own and any(gradient.abs().sum() > 0 for gradient in own)


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_can_be_trained_on(name: str) -> None:
    model, task = made(name), task_of(name)
    images = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 2
    data = task.collate(images, [targets(task)[2]] * 2, Augmentation(), None)
    assert np.isfinite(model.loss(model.net.train(), data).item())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_equal_to_its_teacher_has_nothing_to_learn_from_it(name: str) -> None:
    """The gradient of what the teacher adds is least where the network is its teacher."""
    model, data = made(name), batch(task_of(name))
    teacher = Teacher(copy.deepcopy(model.net).eval(), weight=1.0)

    def pull(net: torch.nn.Module) -> tuple[float, float]:
        extra = model.loss(net, data, teacher).sum() - model.loss(net, data, Teacher(teacher.net, weight=0.0)).sum()
        grads = torch.autograd.grad(extra, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        return extra.item(), sum(float(g.norm()) for g in grads if g is not None)

    equal, still = pull(model.net.eval())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.net.model[-1].cv4.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for parameter in getattr(model.net.model[-1], "one2one_cv4", torch.nn.ModuleList()).parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    other, moving = pull(model.net)
    assert other > equal and moving > 2 * still


@pytest.mark.parametrize("name", NAMES)
def test_outputs_decode_and_are_measured(name: str) -> None:
    model, task = made(name), task_of(name)
    images = batch(task)["img"]
    decoded = model.decode(outputs(model, images))
    assert len(decoded) == 3 and len(decoded[0].scores) > 0
    for image in decoded:
        assert (np.diff(image.scores) <= 0).all() and image.boxes.shape == (len(image.scores), 4)
        assert image.take(np.array([0])).scores.shape == (1,)
    accuracy = task.metric.evaluate(decoded, targets(task), ("a", "b"))
    assert 0 <= accuracy.value <= 1 and accuracy.metric == task.metric.name
    if model.postprocess is not None:
        rows = outputs(model, images, postprocess=False)
        picked = (model.postprocess(rows[0]), *rows[1:]) if isinstance(rows, tuple) else model.postprocess(rows)
        for own, other in zip(decoded, model.decode(picked), strict=True):
            np.testing.assert_allclose(own.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_those_of_plain_ultralytics(name: str) -> None:
    """Suppression, masks, keypoints and angles, from the outputs of the network as trained."""
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import process_mask

    model, task = made(name), task_of(name)
    images, head = batch(task)["img"], model.net.model[-1]
    decoded = model.decode(outputs(model, images))
    with torch.no_grad():
        raw = model.net.eval()(images)[0]
    rows, prototypes = raw if isinstance(raw, tuple) else (raw, None)
    theirs = non_max_suppression(
        rows, 0.001, 0.7, nc=2, multi_label=True, max_det=300, end2end=head.end2end, rotated=task is OBB
    )  # fmt: skip
    for index, (own, other) in enumerate(zip(decoded, theirs, strict=True)):
        best = other[other[:, 4].argsort(descending=True, stable=True)]
        assert len(own.scores) == len(best)
        np.testing.assert_allclose(own.scores, best[:, 4], atol=1e-4)
        if task is OBB:
            np.testing.assert_allclose(own.rotated[0], [*best[0, :4], best[0, 6]], rtol=1e-2, atol=0.05)
        elif task is SEGMENT:
            from pycocotools import mask as coco_mask

            masks = process_mask(prototypes[index], best[:, 6:], best[:, :4], (SIZE, SIZE)).numpy()
            same = (coco_mask.decode(own.masks[0]) == masks[0]).mean()
            assert masks.shape[1:] == (SIZE // 4, SIZE // 4) and same > 0.97
        else:
            np.testing.assert_allclose(own.keypoints[0].ravel(), best[0, 6:], atol=0.05)


def test_a_model_for_keypoints_predicts_those_of_the_data() -> None:
    model = made("yolo26n-pose")
    assert model.net.model[-1].kpt_shape == [4, 3] and model.task == pose(4, None)
    assert (4, 3) in model.output_signature()
    again = from_constructor(model.constructor())
    assert again.task == model.task
    with pytest.raises(UserError, match="the data has 4 keypoints of 3 numbers, the model predicts 17"):
        check_same(POSE, pose())


def test_the_task_of_an_architecture_is_known_without_building_it() -> None:
    names = {"yolo26n": "detect", "yolo11n-seg": "segment", "yolov8n-pose": "pose", "yolo26n-obb": "obb"}
    for name, expected in names.items():
        task = ultralytics.task_of(ModelConfig(name=name))
        assert task is not None and task.name == expected
    assert ultralytics.yaml_task({"head": [[-1, 1, "Unknown", []]]}) is None and ultralytics.yaml_task(None) is None
