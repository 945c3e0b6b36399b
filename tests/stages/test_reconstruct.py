from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import compress
from compress.capabilities import Model, TorchModel
from compress.config import Config, Family, ModelConfig, ReconstructConfig
from compress.errors import UserError
from compress.measurement import rows
from compress.models import build
from compress.pipeline import Result
from compress.product import Product, Reference
from compress.pruning import solver
from compress.stages import reconstruct
from tests.stages.conftest import data

SHORT = [
    "recipe=digits",
    "targets=[]",
    "data.validation_images=200",
    "train.images=1600",
    "threads=1",
    "prune.round_to=8",
]
SHORT += ["budget.max_accuracy_drop=null", "reconstruct.images=200", "prune.importance=group_l2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reconstruct")


@pytest.fixture(scope="module")
def run(place: Path) -> Callable[..., Result]:
    def run(name: str, *overrides: str) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            patch.setattr(rows, "TIMING_SECONDS", 0.01)
            return compress.run(compress.compose([*SHORT, *overrides]), place / name)

    return run


@pytest.fixture(scope="module")
def result(run: Callable[..., Result]) -> Result:
    return run("first", "stages=[train,prune,reconstruct]")


def accuracies(result: Result) -> dict[str, float]:
    return {row.stage: row.accuracy.value for row in result.rows if row.accuracy}


def test_the_accuracy_returns_without_training(result: Result) -> None:
    of = accuracies(result)
    assert of["reconstruct"] > of["prune"] + 0.1
    last, pruned = result.rows[-1], result.rows[-2]
    assert last.stage == "reconstruct" and last.flops == pruned.flops
    record = json.loads((result.folder / "reconstruction.json").read_text())
    assert record and all(layer["after"] < layer["before"] for layer in record.values())


def test_a_pruned_checkpoint_knows_which_channels_it_kept(result: Result, run: Callable[..., Result]) -> None:
    """Pruning it again, in two rounds, and solving refers to the network before all pruning."""
    checkpoint = ["model=checkpoint", f"model.path={result.folder / 'pruned'}"]
    again = run("again", *checkpoint, "stages=[reconstruct]", "budget.flops=null", "reconstruct.images=150")
    assert accuracies(again)["reconstruct"] == pytest.approx(accuracies(result)["reconstruct"], abs=0.05)
    rounds = ["prune.rounds=2", "prune.round_images=64", "budget.flops=60%"]
    narrower = run("narrower", *checkpoint, "stages=[prune,reconstruct]", *rounds)
    of = accuracies(narrower)
    assert of["reconstruct"] > of["prune"]
    description = json.loads((narrower.folder / "pruned" / "model.json").read_text())
    shapes, kept = description["shapes"], description["reference"]["kept"]
    assert kept and all(len(channels) == shapes[f"{layer}.weight"][0] for layer, channels in kept.items())


@pytest.fixture(scope="module")
def model() -> TorchModel:
    built = build(ModelConfig(family=Family.module, target="tests.models.toy.Net", args={"classes": 3}, imgsz=32))
    assert isinstance(built, TorchModel)
    return built


def check(product: Product, *stages: str, images: int = 4) -> None:
    config = Config(stages=list(stages), reconstruct=ReconstructConfig(images))
    reconstruct.check(product, config, data())


def reference(model: Model | None, kept: dict[str, list[int]] | None) -> Reference:
    return Reference("identity", 1, 32, "there", model, kept)


def test_what_it_needs_is_checked_before_work_starts(model: TorchModel) -> None:
    widths = solver.widths_of(model.net)
    layer, width = next(iter(widths.items()))
    wrong = {layer: list(range(1, width + 1))}
    for given, message in [
        (None, "stages=reconstruct: nothing was pruned: add prune"),
        (reference(None, {}), "stages=reconstruct: needs the unpruned model, and there could not be loaded"),
        (reference(model, None), "stages=reconstruct: the checkpoint does not record which channels were kept: prune"),
        (reference(model, wrong), f"the record of kept channels does not fit the layer {layer}: prune"),
    ]:
        with pytest.raises(UserError, match=message):
            check(Product(model, given), "reconstruct")


def test_images_that_are_too_few_for_a_layer_are_refused_before_pruning(model: TorchModel) -> None:
    with pytest.raises(UserError, match=r"reconstruct\.images=4: the layer head has 33 unknowns .* it needs 33 images"):
        check(Product(model), "prune", "reconstruct", images=300)


def test_images_are_drawn_by_seed_without_their_labels() -> None:
    split = data().train
    unlabelled = replace(split, samples=[replace(sample, label=None) for sample in split.samples])
    drawn = [[id(s.source) for s in reconstruct.drawn(unlabelled, 3, seed).samples] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 3
    assert len(reconstruct.drawn(unlabelled, 300, 0)) == len(split)
