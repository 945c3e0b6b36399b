"""Which layers INT8 hurts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import models
from compress.config import Family, ModelConfig
from compress.quantization import sensitivity
from compress.quantization.sensitivity import ranked
from tests.fakes import FakeModel
from tests.models import onnx_files as files
from tests.models.toy import layer


def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((1, 3, 8, 8), dtype=np.float32) for _ in range(4)]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))


def spread(net: nn.Sequential) -> None:
    """One channel a thousand times larger than the others takes all the steps of the tensor's only scale."""
    first, second = (layer(net, name, nn.Conv2d).weight for name in ("0", "2"))
    with torch.no_grad():
        first[0] *= 1000
        second[:, 0] /= 1000  # the function stays nearly the same


def errors(given: nn.Module) -> dict[str, float]:
    return dict(ranked(FakeModel(given), images()))


def test_every_layer_has_an_error_and_the_worst_comes_first() -> None:
    model = FakeModel(net())
    result = ranked(model, images())
    assert {name for name, _ in result} == {"0", "2", "4"}
    values = [error for _, error in result]
    assert values == sorted(values, reverse=True) and 0 < values[-1] < values[0] < 0.01


def test_a_layer_whose_inputs_spread_widely_is_hurt_most() -> None:
    wide = net()
    before = errors(wide)
    spread(wide)
    after = errors(wide)
    assert max(after, key=lambda name: after[name]) == "2" and after["2"] > 100 * before["2"]


def test_each_output_counts_by_its_own_spread() -> None:
    """Outputs as far apart as pixels and prototypes: scaling one changes nothing."""

    class Both(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.left, self.right = (nn.Conv2d(*sizes, 3) for sizes in ((3, 4), (4, 2), (4, 6)))
            self.scale = scale

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.stem(x).relu()
            return self.left(features).flatten(2) * self.scale, self.right(features)

    small, large = errors(Both(1)), errors(Both(1000))
    assert small.keys() == {"stem", "left", "right"} and min(small.values()) > 0
    assert all(np.isclose(small[name], large[name], rtol=1e-3) for name in small)


@pytest.mark.parametrize(
    ("shape", "axes"), [((8, 6, 100), [0, 2]), ((8, 100, 6), [0, 1]), ((8, 32, 16, 16), [0, 2, 3])]
)
def test_channels_are_the_first_axis_of_maps_and_the_shortest_of_rows(shape: tuple[int, ...], axes: list[int]) -> None:
    assert sensitivity._reduced_axes(torch.zeros(shape)) == axes


def test_the_network_is_left_as_it_was() -> None:
    given = net()
    model = FakeModel(given)
    x = torch.from_numpy(images()[0])
    with torch.no_grad():
        before = given(x)
        ranked(model, images())
        assert torch.equal(given(x), before)


def of_file(path: Path) -> dict[str, float]:
    model = models.build(ModelConfig(Family.onnx, path=str(path), imgsz=0, channels=0))
    generator = np.random.default_rng(0)
    given = [generator.random((1, 3, model.imgsz, model.imgsz), dtype=np.float32) for _ in range(4)]
    return dict(ranked(model, given))


def test_the_layers_of_a_file_are_ranked_as_those_of_the_network_it_came_from(tmp_path: Path) -> None:
    wide = net()
    spread(wide)
    whole = nn.Sequential(*wide, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.onnx.export(whole, (torch.rand(1, 3, 8, 8),), str(tmp_path / "net.onnx"), dynamo=False)
    result = of_file(tmp_path / "net.onnx")
    assert result.keys() == {"0", "2", "4"}
    assert max(result, key=lambda name: result[name]) == "2" and result["2"] > 10 * result["4"]


def test_a_files_detector_is_compared_before_it_decodes(tmp_path: Path) -> None:
    result = of_file(files.save(files.detector(), tmp_path / "detector.onnx"))
    assert len(result) == 2 and all(0 < error < 0.01 for error in result.values())
