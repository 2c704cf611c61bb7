"""timm networks for any number of bands, and how bytes become their input.

A backbone maps images (B, C, H, W) to features (B, D); `num_features` is its D.
"""

from typing import Literal

import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

BackboneName = Literal["resnet50"]


def backbone(name: BackboneName, *, in_channels: int) -> nn.Module:
    """Return a freshly initialized network without a classifier.

    The initialization is the published runs': He normal (fan out) for every convolution but the
    first, which keeps PyTorch's default because it was exchanged for one of 13 bands afterwards;
    no batch norm starts at zero.

    Args:
        name: timm's name of the network.
        in_channels: Bands of the input.
    """
    network = timm.create_model(name, in_chans=in_channels, num_classes=0, zero_init_last=False)
    first = network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    first.reset_parameters()
    return network


def to_input(images: UInt8[Tensor, "b c h w"], *, dtype: torch.dtype) -> Float[Tensor, "b c h w"]:
    """Return bytes 0-255 as numbers 0-1 in channels-last memory, as all published weights expect.

    No mean or deviation is taken off.
    """
    return images.to(dtype, memory_format=torch.channels_last).div_(255)
