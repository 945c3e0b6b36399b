"""Detectors of Ultralytics as models: pruned, trained, deployed, saved."""

from __future__ import annotations

import ast
import copy
import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("ultralytics")

from compress import checkpoint
from compress.capabilities import Teacher, TopK
from compress.config import PruneConfig
from compress.models import from_constructor, ultralytics_model
from compress.models.ultralytics_model import UltralyticsModel
from compress.pruning.solver import prune_to_flops
from tests.models.detectors import CLASSES, SIZE, batch, make


def macs(model: UltralyticsModel) -> int:
    net = model.deployed()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(model.example_input())
    return counter.get_total_flops() // 2


def test_pruned_detector_trains_deploys_and_comes_back_from_disk(tmp_path: Path) -> None:
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


def test_a_teacher_trains_the_backbone_through_the_deployed_head_alone() -> None:
    model = make()
    net = model.net.train()
    before = type(net.model[-1])
    model.loss(net, batch(), Teacher(copy.deepcopy(net).eval(), weight=1.0)).sum().backward()
    detect = net.model[-1]
    assert type(detect) is before and net.model[0].conv.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in (*detect.one2one_cv2.parameters(), *detect.one2one_cv3.parameters()))
    assert all(p.grad is None for p in (*detect.cv2.parameters(), *detect.cv3.parameters()))


def test_a_teacher_alone_needs_no_labels() -> None:
    model, images = make(), {"img": batch()["img"]}
    net, teacher = model.net.train(), copy.deepcopy(make("yolo26n").net).eval()
    with torch.no_grad():
        next(teacher.parameters()).mul_(2)  # another network than the student
    both = model.loss(net, batch(), Teacher(teacher, weight=2.0))
    loss = model.loss(net, images, Teacher(teacher, weight=2.0, alone=True))
    assert torch.isclose(loss, both[1], rtol=1e-3)
    loss.backward()
    assert net.model[0].conv.weight.grad.abs().sum() > 0


def test_metadata_can_be_read_back() -> None:
    metadata = make().metadata()
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(CLASSES))
    assert (
        metadata["end2end"] == "True"
        and metadata["stride"] == "32"
        and ast.literal_eval(metadata["imgsz"]) == [SIZE, SIZE]
    )


def test_a_network_with_one_head_has_nothing_to_schedule() -> None:
    model = make("yolov8n")
    net, data = model.net.eval(), batch()
    before = model.loss(net, data)
    model.schedule_loss(net, 1.0)
    assert torch.equal(model.loss(net, data), before)


@pytest.mark.parametrize(("progress", "weight"), [(-1.0, 0.8), (0.0, 0.8), (0.5, 0.45), (1.0, 0.1), (3.0, 0.1)])
def test_the_weight_of_the_head_for_training_falls_on_a_line_and_stays_at_its_ends(
    progress: float, weight: float
) -> None:
    model = make()
    criterion = ultralytics_model._criterion(model.net)
    assert (criterion.o2m_copy, criterion.final_o2m, criterion.total) == (0.8, 0.1, 1.0)  # Ultralytics' own
    model.schedule_loss(model.net, progress)
    assert (criterion.o2m, criterion.o2o) == (pytest.approx(weight), pytest.approx(1 - weight))


def test_the_loss_is_that_of_ultralytics_times_the_parts_of_the_batch() -> None:
    model = make("yolov8n")
    net, data = model.net.train(), batch()
    wanted = net.init_criterion()(net(data["img"]), data)[0].sum()
    assert torch.allclose(model.loss(net, data), wanted, rtol=1e-4)
    assert torch.allclose(model.loss(net, data, parts=3), 3 * wanted, rtol=1e-4)


def test_a_criterion_is_freed_with_its_network() -> None:
    model = make("yolov8n")
    net = copy.deepcopy(model.net)
    first = ultralytics_model._criterion(net)
    assert ultralytics_model._criterion(net) is first
    count = len(ultralytics_model._criteria)
    del net
    gc.collect()
    assert len(ultralytics_model._criteria) < count


def test_what_two_networks_share_to_teach_each_other() -> None:
    assert make().output_signature() == ("Detect", 1, (8, 16, 32))
    assert make("yolov8n").output_signature() == ("Detect", 16, (8, 16, 32))


def test_an_end_to_end_network_selects_by_value_and_another_does_not() -> None:
    assert make().postprocess == TopK(len(CLASSES), 300)
    assert make("yolov8n").postprocess is None


def test_protected_modules_of_the_user_join_those_of_the_network() -> None:
    model = replace(make(), protected=("model.0.conv",))
    result = model.prunable()[1]
    assert result["model.0.conv"] == "model.protected" and result.keys() > make().prunable()[1].keys()
