from __future__ import annotations

import numpy as np
import pytest
import torch

from compress import tasks
from compress.errors import UserError
from compress.tasks import CLASSIFY, DETECT, SEGMENT, PlainNetworkTask, SupervisedTask, Task
from compress.tasks.task import images_to_tensor
from tests.own_code import SEMANTIC


def test_tensors_of_images_are_scaled_and_channels_last() -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8) for seed in range(2)]
    batch = images_to_tensor(images)
    assert batch.shape == (2, 3, 5, 5) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch[1, 2], images[1][:, :, 2] / np.float32(255))


def test_what_a_task_can_do_is_what_it_implements() -> None:
    assert isinstance(CLASSIFY, PlainNetworkTask) and not isinstance(DETECT, PlainNetworkTask)
    assert isinstance(DETECT, SupervisedTask) and not isinstance(SEGMENT, SupervisedTask)
    assert Task("mine").output_kind(end_to_end=True, postprocessed=True) == "mine"


@pytest.mark.parametrize("label", [float("nan"), np.float32("inf"), np.array([[0.5, np.nan]])])
def test_a_label_of_a_users_task_must_be_finite(label: object) -> None:
    assert SEMANTIC.label_problem(label, 2) == "the label has a value that is not finite"
    assert [SEMANTIC.label_problem(each, 2) for each in (0.5, 3, None, "cat", np.ones(2))] == [None] * 5


def test_model_and_data_must_be_for_the_same_task() -> None:
    tasks.check_same(DETECT, None)
    tasks.check_same(DETECT, DETECT)
    tasks.check_same(Task("mine"), Task("mine", path="own.task"))
    with pytest.raises(UserError, match="the data is for classify, the model for detect"):
        tasks.check_same(DETECT, CLASSIFY)
    with pytest.raises(UserError, match="can be pruned and exported only"):
        tasks.check_same(SEGMENT, DETECT)


def test_a_checkpoint_imports_a_task_only_with_trust() -> None:
    assert tasks.of("classify", trust=False) is CLASSIFY
    with pytest.raises(UserError, match="model.trust=true"):
        tasks.of("tests.own_code.SEMANTIC", trust=False)
    with pytest.raises(UserError, match="not a task for plain networks"):
        tasks.of("detect", trust=True)


def test_a_users_task_remembers_its_import_path() -> None:
    with pytest.raises(UserError, match="is a str, not a compress.tasks.SupervisedTask"):
        tasks.load("tests.tasks.test_task.__name__")
    task = tasks.load("compress.tasks.CLASSIFY")
    assert task.path == "compress.tasks.CLASSIFY" and task.name == "classify" and CLASSIFY.path == ""
