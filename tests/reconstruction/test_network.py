from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.reconstruction.network import reconstruct

IMAGES = torch.rand(30, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution of each kind, two of them parallel, and a linear layer. Filters 2 and 3 of `first` are equal to 0
    and 1, up to their BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.depthwise, self.second_norm = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(10, 3)
        with torch.no_grad():
            for index, parameter in enumerate(self.state_dict().values()):
                if parameter.is_floating_point():
                    parameter.uniform_(0.2, 1.2, generator=torch.Generator().manual_seed(index))
            self.first.weight[2:] = self.first.weight[:2]
            self.depthwise.weight[2:] = self.depthwise.weight[:2]
            self.norm.weight[1] *= -1
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second_norm(self.depthwise(self.norm(self.first(x))))
        return self.head(torch.cat((self.left(x), self.right(x)), 1).mean((2, 3)))


def without(net: nn.Module, layers: dict[str, int], kept: Sequence[int]) -> nn.Module:
    """A copy without the channels of some layers that are not `kept`; {layer: dimension of its weight to cut}."""
    pruned = copy.deepcopy(net)
    for name, dimension in layers.items():
        module = pruned.get_submodule(name)
        for key, value in module.state_dict().items():
            if value.ndim and (dimension == 0 or key == "weight"):
                cut = value.index_select(dimension, torch.tensor(kept))
                setattr(module, key, nn.Parameter(cut) if key in module._parameters else cut)
    return pruned


KEPT = {"first": [0, 1], "depthwise": [0, 1]}


def pruned(net: Net) -> Net:
    narrow = without(net, {"first": 0, "norm": 0, "depthwise": 0, "second_norm": 0, "left": 1, "right": 1}, [0, 1])
    assert isinstance(narrow, Net)
    narrow.depthwise.groups = 2
    return narrow


def load(start: int, stop: int) -> Tensor:
    return IMAGES[start:stop]


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(IMAGES)


@pytest.mark.parametrize("memory", [2**30, 100_000])
def test_redundant_channels_are_replaced(memory: int) -> None:
    """Without the bound: the outputs are those of the unpruned network, in one pass as in several."""
    net, reference = pruned(Net()), Net()
    lost = (outputs(net) - outputs(reference)).abs().max()
    solved = reconstruct(net, reference, KEPT, load, len(IMAGES), growth=1e9, memory=memory)
    left = (outputs(net) - outputs(reference)).abs().max()
    assert lost > 1 and left < 1e-3 * lost
    assert {"left", "right"} <= {layer.layer for layer in solved} and all(
        layer.after < 0.1 * layer.before for layer in solved
    )


def test_the_number_of_passes_does_not_matter() -> None:
    one, several = pruned(Net()), pruned(Net())
    reconstruct(one, Net(), KEPT, load, len(IMAGES), growth=2)
    reconstruct(several, Net(), KEPT, load, len(IMAGES), growth=2, memory=100_000)
    assert torch.allclose(outputs(one), outputs(several), rtol=1e-3)  # float32 sums in another order
    assert not torch.allclose(outputs(one), outputs(pruned(Net())), rtol=0.1)


def test_what_reproduces_its_target_keeps_its_bits() -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    assert reconstruct(net, Net(), {}, load, len(IMAGES), growth=10) == []
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_too_few_images_end_it_before_anything_is_changed() -> None:
    net = pruned(Net())
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=r"reconstruct\.images=10: the layer head has 11"):
        reconstruct(net, Net(), KEPT, load, 10, growth=10)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
