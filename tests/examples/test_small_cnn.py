from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.examples.small_cnn import SmallCNN, SmallUNet
from tests.models.toy import layer


@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 33)])
def test_logits_for_every_image_and_class(channels: int, side: int) -> None:
    net = SmallCNN(classes=7, width=8, channels=channels).eval()
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    logits = net(images)
    assert logits.shape == (2, 7)
    assert torch.allclose(net(images[1:]), logits[1:], atol=1e-6)  # images do not affect each other


def test_the_second_half_of_the_features_is_the_first_plus_a_residual() -> None:
    """Without the residual branch both halves that the head sees are equal."""
    net = SmallCNN(width=8).eval()
    seen: list[torch.Tensor] = []
    net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    last = layer(net, "second.1.1", nn.BatchNorm2d)  # of the branch
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    net(torch.rand(1, 3, 16, 16))
    assert torch.equal(*seen[0].chunk(2, dim=1)) and seen[0].abs().max() > 0


def test_the_unet_has_logits_for_every_pixel() -> None:
    net = SmallUNet(classes=3, width=8, channels=1).eval()
    images = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    logits = net(images)
    assert logits.shape == (2, 3, 24, 24)
    images[:, :, :8, :8] += 1
    assert not torch.allclose(net(images)[:, :, :8, :8], logits[:, :, :8, :8])
