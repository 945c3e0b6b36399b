from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import checkpoint
from compress.config import Family, ModelConfig, PruneConfig
from compress.errors import UserError
from compress.models import from_constructor
from compress.models.plain_network import PlainNetwork
from compress.pruning.solver import prune_to_ratio
from tests.models.toy import layer, plain, randomise

trusting = partial(from_constructor, trust=True)  # of tests.models.toy.Net, which is not the package's


@pytest.fixture
def pruned() -> PlainNetwork:
    model = plain(ModelConfig(family=Family.module, target="tests.models.toy.Net", imgsz=32, args={"width": 32}))
    net, protected = model.prunable()
    return model.with_net(prune_to_ratio(randomise(net), model.example_input(), protected, PruneConfig(), 0.4).net)


@pytest.fixture
def folder(pruned: PlainNetwork, tmp_path: Path) -> Path:
    checkpoint.save(pruned, tmp_path / "pruned")
    return tmp_path / "pruned"


def test_round_trip_is_bit_exact(pruned: PlainNetwork, folder: Path) -> None:
    loaded = checkpoint.load(folder, trusting)
    x = pruned.example_input(2)
    assert torch.equal(loaded.net.eval()(x), pruned.net.eval()(x))
    depthwise = layer(loaded.net, "one.body.3", nn.Conv2d)
    assert depthwise.groups == depthwise.weight.shape[0] < 64
    assert loaded.constructor() == pruned.constructor()
    trained = loaded.net.train()(x).sum()
    trained.backward()  # the parameters are real ones
    assert all(p.grad is not None for p in loaded.net.parameters())


def test_the_family_checkpoint_loads_it(folder: Path, pruned: PlainNetwork) -> None:
    model = plain(ModelConfig(family=Family.checkpoint, path=str(folder), trust=True))
    assert torch.equal(model.net.eval()(model.example_input()), pruned.net.eval()(model.example_input()))


def test_saving_again_replaces(pruned: PlainNetwork, folder: Path) -> None:
    with torch.no_grad():
        pruned.net.get_parameter("head.bias").add_(1)
    checkpoint.save(pruned, folder)
    saved = checkpoint.load(folder, trusting).net.get_parameter("head.bias")
    assert torch.equal(saved, pruned.net.get_parameter("head.bias"))
    assert sorted(path.name for path in folder.iterdir()) == [checkpoint.DESCRIPTION, checkpoint.TENSORS]


def _truncate(folder: Path) -> None:
    file = folder / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-8])


def _flip(folder: Path) -> None:
    file = folder / checkpoint.TENSORS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _change(folder: Path, *, signed: bool = False, **entries: object) -> None:
    """Other entries, as an older version wrote them (without a hash of their own) or as somebody altered them."""
    file = folder / checkpoint.DESCRIPTION
    content = json.loads(file.read_text()) | entries
    if not signed:
        del content["sha256"]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda folder: (folder / checkpoint.DESCRIPTION).unlink(),
        lambda folder: (folder / checkpoint.TENSORS).unlink(),
        lambda folder: (folder / checkpoint.DESCRIPTION).write_text("{"),
        lambda folder: (folder / checkpoint.DESCRIPTION).write_text("[]"),
        lambda folder: _change(folder, schema_version=99),
        lambda folder: _change(folder, constructor={"family": "nobody"}),
        lambda folder: _change(folder, constructor={"family": "module"}),
        lambda folder: _change(folder, tensors={}),
    ],
)
def test_damage_is_the_users_error(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(UserError):
        checkpoint.load(folder, trusting)


def test_altered_entries_are_refused_and_older_ones_without_a_hash_are_not(folder: Path) -> None:
    constructor = json.loads((folder / checkpoint.DESCRIPTION).read_text())["constructor"]
    _change(folder, signed=True, constructor=constructor | {"imgsz": 64})
    with pytest.raises(UserError, match="altered"):
        checkpoint.load(folder, trusting)
    _change(folder, constructor=constructor)
    assert checkpoint.load(folder, trusting).imgsz == 32


def test_tensors_of_another_network(folder: Path) -> None:
    constructor = json.loads((folder / checkpoint.DESCRIPTION).read_text())["constructor"]
    constructor |= {"target": "torch.nn.Identity", "args": {}}
    with pytest.raises(UserError):
        checkpoint.load(folder, lambda _: trusting(constructor))
    model = checkpoint.load(folder, trusting)
    _, tensors = checkpoint.read(folder)
    with pytest.raises(UserError, match="head.bias"):
        checkpoint.resize(model.net, {k: v for k, v in tensors.items() if k != "head.bias"}, folder)
    with pytest.raises(UserError, match="dimensions"):
        checkpoint.resize(model.net, tensors | {"head.weight": torch.zeros(3)}, folder)
