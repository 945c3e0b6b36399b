"""Fine-tunes the shipped baseline as its recipe fine-tunes a pruned model: does more training still gain anything?

    python scripts/check_baseline.py [--seeds 1] [--recipe drone_nano] [key=value ...]

A baseline that has not been trained to its end would flatter pruning: the fine-tuning after it would then be nothing
but more training. So the same stage, with the same settings, must leave the baseline's mAP where it is: within 0.01
either way, judged on the large validation split with an interval paired over its images. Only the teacher is left out
(finetune.distillation): the baseline would be its own, and learning from itself holds it where it is.
"""

from __future__ import annotations

import argparse
import copy
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from compress import data, models
from compress.cache import Cache
from compress.config import Config, compose
from compress.data import DataSet
from compress.errors import UserError
from compress.measurement.accuracy import Accuracy, evaluate, paired_difference, predictor
from compress.product import Model
from compress.stages import finetune
from compress.stages.context import Context

GOAL = 0.01  # absolute points of the metric, either way


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="fine-tune with seeds 0 to N-1")
    parser.add_argument("--recipe", default="drone_nano")
    parser.add_argument("overrides", nargs="*", help="further settings, as on compress' command line")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    fixed = [f"recipe={given.recipe}", "data.large_validation=true", *given.overrides]
    try:
        configs = [compose([*fixed, f"seed={seed}"]) for seed in range(given.seeds)]
        return check(configs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def check(configs: list[Config]) -> int:
    """Prints the accuracy before and after for each config; 0 if every difference is within GOAL, else 1.

    Raises:
        UserError: the baseline is not there, or the data is at fault.
    """
    first = models.resolve(configs[0])
    torch.set_num_threads(first.threads)
    models.build(first.model)  # an absent baseline is said at once, not after generating data
    dataset = data.load(first.data, *first.model.input, first.seed)
    model: Model = models.build(first.model, dataset.classes, dataset.task)
    before = accuracy(model, dataset, "before")
    print(f"baseline: {describe(before)}")
    within = True
    for config in configs:
        after = accuracy(tune(model, config, dataset), dataset, "after")
        gain, (low, high) = paired_difference(after, before)
        within &= abs(gain) <= GOAL
        print(f"seed {config.seed}, {config.finetune.images} images: {describe(after)}")
        print(f"  difference {gain:+.4f} ({low:+.4f} to {high:+.4f}), goal within {GOAL}: {_said(abs(gain) <= GOAL)}")
    return 0 if within else 1


def tune(model: Model, config: Config, dataset: DataSet) -> Model:
    """What the recipe's stage `finetune` makes of `model`, which stays as it is."""
    torch.manual_seed(config.seed)
    scratch = Path(tempfile.mkdtemp(prefix="compress-"))
    try:
        context = Context(config, dataset, scratch, scratch, Cache(Path("outputs/.cache"), config.cache))
        return finetune.run(model.with_net(copy.deepcopy(model.net)), context)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def accuracy(model: Model, dataset: DataSet, label: str) -> Accuracy:
    """Of the deployed torch network, on the whole validation split."""
    return evaluate(
        predictor(model.deployed()),
        model.decode,
        dataset.validation,
        model.task,
        dataset.classes,
        batch=16,
        progress=label,
    )


def describe(found: Accuracy) -> str:
    low, high = found.ci95
    return f"{found.metric} {found.value:.4f} ({low:.4f} to {high:.4f}) on {found.images} images"


def _said(met: bool) -> str:
    return "met" if met else "NOT met"


if __name__ == "__main__":
    sys.exit(main())
