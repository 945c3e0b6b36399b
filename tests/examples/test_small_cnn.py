from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.examples.small_cnn import ResNet20, SmallCNN, SmallUNet
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


def test_resnet20_has_the_papers_layers() -> None:
    """19 convolutions and a linear layer on the longest path, and about 0.27 M weights (He et al., table 6)."""
    net = ResNet20(classes=10, channels=3).eval()
    convolutions = [
        module for module in net.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 19
    assert sum(each.numel() for each in net.parameters()) == pytest.approx(0.27e6, rel=0.02)
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert net(images).shape == (2, 10) and net.blocks(net.stem(images)).shape == (2, 64, 7, 7)
    assert torch.allclose(net(images[1:]), net(images)[1:], atol=1e-5)
