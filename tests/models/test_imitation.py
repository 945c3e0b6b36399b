from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from compress.models.imitation import compared
from compress.product import Teacher


class Net(nn.Module):
    """Two blocks with a BatchNorm each, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 4), nn.BatchNorm2d(6))
        self.idle = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    nn.init.uniform_(made.body[1].weight, 0.5, 2.0)
    return made


def distance(student: nn.Module, teacher: Teacher, images: Tensor) -> Tensor:
    with compared(student, teacher) as apart:
        student(images)
        teacher.net(images)
    found = apart()
    assert isinstance(found, Tensor)
    return found


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_equal_layers_are_not_apart_and_what_no_one_sees_does_not_count() -> None:
    teacher = Teacher(net(), weight=1.0, features=1.0)
    student = copy.deepcopy(teacher.net)
    assert distance(student, teacher, IMAGES) == 0
    nn.init.normal_(student.idle.weight)
    assert distance(student, teacher, IMAGES) == 0


def test_the_distance_is_in_deviations_of_the_teachers_channels() -> None:
    teacher = Teacher(net(), weight=1.0, features=1.0)
    student = copy.deepcopy(teacher.net)
    with torch.no_grad():
        student.body[1].bias += 0.1
    expected = (0.1 / (teacher.net.body[1].weight.abs() + 0.01)).square().mean() / 2  # the stem's is none
    torch.testing.assert_close(distance(student, teacher, IMAGES), expected.detach(), rtol=1e-4, atol=0)


def test_only_the_last_layer_of_a_block_counts() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(1.0), nn.BatchNorm2d(3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x)

    teacher = Teacher(Block().eval(), weight=1.0, features=1.0)
    student = copy.deepcopy(teacher.net)
    student.blocks[0][1].p = 0.0
    with torch.no_grad():
        student.blocks[0][0].bias += 1.0
        student.blocks[0][2].running_mean += student.blocks[0][0].bias
    images = IMAGES.clone()
    assert distance(student, teacher, images) < 1e-8


def test_channels_are_compared_with_those_they_were() -> None:
    teacher = Teacher(net(), weight=1.0, features=1.0, kept={"body.1": torch.tensor([0, 3, 4])})
    student = copy.deepcopy(teacher.net)
    conv, norm = nn.Conv2d(4, 3, 3, 4), nn.BatchNorm2d(3).eval()
    for mine, whole in ((conv, teacher.net.body[0]), (norm, teacher.net.body[1])):
        mine.load_state_dict(
            {name: value[[0, 3, 4]] if value.ndim else value for name, value in whole.state_dict().items()}
        )
    student.body = nn.Sequential(conv, norm)
    assert distance(student, teacher, IMAGES) < 1e-12
    value = distance(student, Teacher(teacher.net, 1.0, 1.0, {"body.1": torch.tensor([1, 2, 5])}), IMAGES)
    value.backward()
    assert value > 0 and conv.weight.grad is not None and conv.weight.grad.abs().sum() > 0
    assert student.stem[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.net.parameters())


def test_features_that_weigh_nothing_cost_nothing() -> None:
    teacher = Teacher(net(), weight=1.0)
    with compared(teacher.net, teacher) as apart:
        assert not any(module._forward_hooks for module in teacher.net.modules())
    assert apart() == 0
