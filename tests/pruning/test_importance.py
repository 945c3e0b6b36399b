"""Importances, against scores computed with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.config import PruneConfig
from compress.errors import UserError
from compress.pruning.gradients import accumulate_gradients
from compress.pruning.groups import find_groups
from compress.pruning.importance import IMPORTANCES, NEED_GRADIENTS, importance
from compress.pruning.solver import prune_to_ratio
from tests.models.toy import Net, layer, randomise

EXAMPLE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PROTECTED = {"head": "gives the classes"}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return randomise(Net(width=64))


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_works_and_repeats(net: nn.Module, name: str) -> None:
    if name in NEED_GRADIENTS:
        with pytest.raises(UserError, match="gradients"):
            prune_to_ratio(net, EXAMPLE, PROTECTED, PruneConfig(importance=name), 0.4)
        batch = {"img": EXAMPLE, "cls": torch.zeros(len(EXAMPLE), dtype=torch.int64)}

        def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.cross_entropy(net(batch["img"]), batch["cls"])

        accumulate_gradients(net, loss, [batch, batch], squared=NEED_GRADIENTS[name])
    first, again = (prune_to_ratio(net, EXAMPLE, PROTECTED, PruneConfig(importance=name), 0.4) for _ in range(2))
    assert 0.35 < first.ratio < 0.45
    assert torch.equal(first.net.eval()(EXAMPLE), again.net.eval()(EXAMPLE))


@pytest.fixture
def chain() -> nn.Sequential:
    """Two 1x1 convolutions with a BatchNorm between them, and the gradients of a loss."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), norm, nn.ReLU(), nn.Conv2d(6, 2, 1))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    net(torch.rand(2, 3, 4, 4)).square().sum().backward()
    return net


def scores(net: nn.Sequential, name: str) -> np.ndarray:
    (group,), _ = find_groups(net, torch.rand(1, 3, 4, 4), {"3": "gives the output"}, importance(name))
    assert group.name == "0"
    return group.scores.numpy()


def coupled(net: nn.Sequential, tensor: str = "data") -> list[np.ndarray]:
    """Weights of the three layers that belong to each channel of the first (or their gradients): (6, weights)."""
    first, norm, last = (getattr(net[index].weight, tensor).numpy() for index in (0, 1, 3))
    return [first[:, :, 0, 0], norm[:, None], last[:, :, 0, 0].T]


def ranked(values: np.ndarray) -> np.ndarray:
    """Scores count in relation to each other."""
    return values / values.sum()


@pytest.mark.parametrize(("name", "power"), [("group_l1", 1), ("group_l2", 2)])
def test_magnitudes_are_summed_over_a_layer_and_averaged_over_layers(
    chain: nn.Sequential, name: str, power: int
) -> None:
    wanted = np.mean([(np.abs(weights) ** power).sum(1) for weights in coupled(chain)], axis=0)
    assert np.allclose(ranked(scores(chain, name)), ranked(wanted), rtol=1e-5)


def test_the_scale_of_the_norm(chain: nn.Sequential) -> None:
    assert np.allclose(ranked(scores(chain, "bn_scale")), ranked(np.abs(coupled(chain)[1][:, 0])), rtol=1e-5)


def test_lamp_divides_by_the_norms_that_are_not_smaller(chain: nn.Sequential) -> None:
    norms = np.mean([(weights**2).sum(1) for weights in coupled(chain)], axis=0)
    wanted = np.array([norm / norms[norms >= norm].sum() for norm in norms])
    assert np.allclose(ranked(scores(chain, "lamp")), ranked(wanted), rtol=1e-5)


def test_first_order_scores_are_sums_of_weight_times_gradient(chain: nn.Sequential) -> None:
    """Of the convolutions; not divided by anything, so that they compare between groups."""
    products = [np.abs(w * g).sum(1) for w, g in zip(coupled(chain), coupled(chain, "grad"))]
    assert np.allclose(scores(chain, "taylor"), (products[0] + products[2]) / 2, rtol=1e-5)
    assert np.allclose(scores(chain, "taylor_sum"), products[0] + products[2], rtol=1e-5)


def test_second_order_scores_are_sums_of_squared_weight_times_gradient(chain: nn.Sequential) -> None:
    """`.grad` holds squared gradients then."""
    for parameter in chain.parameters():
        assert parameter.grad is not None
        parameter.grad.square_()
    products = [(w**2 * g).sum(1) for w, g in zip(coupled(chain), coupled(chain, "grad"))]
    assert np.allclose(scores(chain, "hessian"), np.mean(products, axis=0), rtol=1e-5)


def test_a_filter_like_many_others_counts_less_than_one_of_its_own(chain: nn.Sequential) -> None:
    first, last = layer(chain, "0", nn.Conv2d).weight, layer(chain, "3", nn.Conv2d).weight
    with torch.no_grad():
        first[:5] = 1.0
        first[5] = 2.0
        last[:] = 0.5
    result = scores(chain, "fpgm")
    assert np.allclose(result[:5], result[0]) and result[5] == pytest.approx(5 * result[0])  # four and five far away


def test_random_scores_are_the_same_for_every_network_of_this_size(chain: nn.Sequential) -> None:
    first = scores(chain, "random")
    layer(chain, "0", nn.Conv2d).weight.data.zero_()
    assert np.array_equal(scores(chain, "random"), first) and len(set(first.tolist())) == 6


def test_an_unknown_importance_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"prune\.importance=magic: choose one of group_l1, group_l2, .*, hessian"):
        importance("magic")
