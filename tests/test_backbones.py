import pytest
import torch
from torch import nn

from ssl4eo_stream.backbones import resnet, to_input


@pytest.mark.parametrize("channels", [2, 13])
def test_resnet50(channels):
    torch.manual_seed(0)
    network = resnet("resnet50", in_channels=channels)
    assert network.num_features == 2048
    with torch.no_grad():
        assert network(torch.rand(2, channels, 32, 32)).shape == (2, 2048)
    # torchvision's ResNet-50 has 25,557,032 parameters, 2,049,000 of them in its classifier
    count = sum(p.numel() for p in network.parameters())
    assert count == 25_557_032 - 2_049_000 + (channels - 3) * 64 * 7 * 7


def test_resnet50_starts_as_the_published_runs():
    torch.manual_seed(0)
    network = resnet("resnet50", in_channels=13)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 53
    first, *others = convolutions
    # uniform within 1 / sqrt(fan in)
    bound = (13 * 49) ** -0.5
    assert first.weight.abs().max() <= bound
    assert first.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    for convolution in others:
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()
        assert (norm.momentum, norm.eps) == (0.1, 1e-5)


def test_bytes_become_numbers_from_0_to_1():
    images = torch.arange(256, dtype=torch.uint8).reshape(2, 2, 8, 8)
    got = to_input(images, dtype=torch.float64)
    assert got.tolist() == (images.double() / 255).tolist()
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert images[1, 1, 7, 7] == 255
