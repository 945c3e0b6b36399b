from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from compress import checkpoint
from compress.capabilities import Model
from compress.config import Family, ModelConfig, PruneConfig
from compress.errors import UserError
from compress.models import build, from_constructor
from compress.pruning.solver import prune_to_ratio
from tests.models.toy import randomise

trusting = partial(from_constructor, trust=True)  # of tests.models.toy.Net, which is not the package's


@pytest.fixture
def pruned() -> Model:
    model = build(ModelConfig(family=Family.module, target="tests.models.toy.Net", imgsz=32, args={"width": 32}))
    net, protected = model.prunable()
    return model.with_net(prune_to_ratio(randomise(net), model.example_input(), protected, PruneConfig(), 0.4).net)


@pytest.fixture
def folder(pruned: Model, tmp_path: Path) -> Path:
    checkpoint.save(pruned, tmp_path / "pruned")
    return tmp_path / "pruned"


def test_round_trip_is_bit_exact(pruned: Model, folder: Path) -> None:
    loaded = checkpoint.load(folder, trusting)
    x = pruned.example_input(2)
    assert torch.equal(loaded.net.eval()(x), pruned.net.eval()(x))
    assert loaded.net.one.body[3].groups == loaded.net.one.body[3].weight.shape[0] < 64
    assert loaded.constructor() == pruned.constructor()
    trained = loaded.net.train()(x).sum()
    trained.backward()  # the parameters are real ones
    assert all(p.grad is not None for p in loaded.net.parameters())


def test_the_family_checkpoint_loads_it(folder: Path, pruned: Model) -> None:
    model = build(ModelConfig(family=Family.checkpoint, path=str(folder), trust=True))
    assert torch.equal(model.net.eval()(model.example_input()), pruned.net.eval()(model.example_input()))


def test_saving_again_replaces(pruned: Model, folder: Path) -> None:
    with torch.no_grad():
        pruned.net.head.bias.add_(1)
    checkpoint.save(pruned, folder)
    assert torch.equal(checkpoint.load(folder, trusting).net.head.bias, pruned.net.head.bias)
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.FACTS, checkpoint.TENSORS]


def _truncate(folder: Path) -> None:
    file = folder / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-8])


def _flip(folder: Path) -> None:
    file = folder / checkpoint.TENSORS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _change(folder: Path, *, signed: bool = False, **facts: object) -> None:
    """Other facts, as an older version wrote them (without a hash of their own) or as somebody altered them."""
    file = folder / checkpoint.FACTS
    found = json.loads(file.read_text()) | facts
    if not signed:
        del found["sha256"]
    file.write_text(json.dumps(found))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda folder: (folder / checkpoint.FACTS).unlink(),
        lambda folder: (folder / checkpoint.TENSORS).unlink(),
        lambda folder: (folder / checkpoint.FACTS).write_text("{"),
        lambda folder: (folder / checkpoint.FACTS).write_text("[]"),
        lambda folder: _change(folder, schema_version=99),
        lambda folder: _change(folder, constructor={"family": "nobody"}),
        lambda folder: _change(folder, constructor={"family": "module"}),
        lambda folder: _change(folder, tensors={}),
    ],
)
def test_damage_is_the_users_error(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(UserError):
        checkpoint.load(folder, trusting)


def test_altered_facts_are_refused_and_older_ones_without_a_hash_are_not(folder: Path) -> None:
    constructor = json.loads((folder / checkpoint.FACTS).read_text())["constructor"]
    _change(folder, signed=True, constructor=constructor | {"imgsz": 64})
    with pytest.raises(UserError, match="altered"):
        checkpoint.load(folder, trusting)
    _change(folder, constructor=constructor)
    assert checkpoint.load(folder, trusting).imgsz == 32


def test_tensors_of_another_network(folder: Path) -> None:
    facts = json.loads((folder / checkpoint.FACTS).read_text())
    facts["constructor"] |= {"target": "torch.nn.Identity", "args": {}}
    with pytest.raises(UserError):
        checkpoint.load(folder, lambda _: trusting(facts["constructor"]))
    model = checkpoint.load(folder, trusting)
    _, tensors = checkpoint.read(folder)
    with pytest.raises(UserError, match="head.bias"):
        checkpoint.resize(model.net, {k: v for k, v in tensors.items() if k != "head.bias"}, folder)
    with pytest.raises(UserError, match="dimensions"):
        checkpoint.resize(model.net, tensors | {"head.weight": torch.zeros(3)}, folder)
