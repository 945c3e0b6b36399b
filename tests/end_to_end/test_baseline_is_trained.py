"""More training of the shipped baseline gains nothing: else fine-tuning would be nothing but more training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from compress import data, finetuning, models
from compress.capabilities import Evaluable, Trainable
from compress.config import compose
from compress.data import supervised
from compress.measurement.accuracy import evaluate, predictor
from compress.tasks.metric import Accuracy

GOAL = 0.01  # absolute points of the metric, either way


@pytest.mark.slow
def test_fine_tuning_leaves_the_baseline_where_it_is(tmp_path: Path) -> None:
    """drone_nano's own fine-tuning, without a teacher: the baseline would be its own. On 3,000 images."""
    pytest.importorskip("ultralytics")
    config = models.resolve(compose(["recipe=drone_nano", "data.large_validation=true", "finetune.distillation=0"]))
    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, *config.model.input, config.seed)
    model = models.build(config.model, dataset.classes, dataset.task)
    assert isinstance(model, Trainable)

    def accuracy(each: Trainable) -> Accuracy:
        assert isinstance(each, Evaluable)
        split = dataset.validation
        predict = predictor(each.deployed())
        return evaluate(predict, each.decode, split, supervised(split), dataset.classes, batch=16)

    before = accuracy(model)
    copied = model.with_net(copy.deepcopy(model.net))
    tuned = finetuning.tune(copied, None, dataset.train, config.finetune, seed=0, stage="finetune", folder=tmp_path)
    assert abs(accuracy(tuned).value - before.value) <= GOAL
