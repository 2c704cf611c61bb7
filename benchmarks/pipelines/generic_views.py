"""MoCo's views of 13 bands with torchvision v2, as other loaders' documentation shows transforms.

Geometry on uint8, then float32 in 0-1, in the order and with the defaults that torchvision's guide
recommends. It has no brightness, contrast or grayscale for more than three bands; they are plain
tensor arithmetic here. The blur's kernel has 13 taps, three standard deviations of the widest.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pipelines.contender import SIZE
from pipelines.material import PIXELS


class Jitter(torch.nn.Module):
    """Brightness by one factor, then contrast about each band's mean."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the image changed, held in 0-1."""
        image = (image * random.uniform(0.6, 1.4)).clamp_(0, 1)
        mean = image.mean(dim=(-2, -1), keepdim=True)
        return ((image - mean) * random.uniform(0.6, 1.4) + mean).clamp_(0, 1)


class Gray(torch.nn.Module):
    """All bands replaced by their mean."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the mean in every band."""
        return image.mean(dim=-3, keepdim=True).expand_as(image).contiguous()


class MoCoAugmentation:
    """A date's image (13, H, W) -> a view (13, 224, 224) in 0-1."""

    def __init__(self) -> None:
        self._compose = v2.Compose([
            v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([Jitter()], p=0.8),
            v2.RandomApply([Gray()], p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, sigma=(0.1, 2.0))], p=0.5),
        ])  # fmt: skip

    def __call__(self, image: Tensor) -> Tensor:
        """Return a view."""
        return self._compose(image)


def stacked(planes: Sequence[Tensor]) -> Tensor:
    """Return bands of several resolutions as one image at 10 m, in the bands' order."""
    sizes = {plane.shape[-1] for plane in planes}
    image = torch.empty((len(planes), PIXELS, PIXELS), dtype=torch.uint8)
    for size in sizes:
        places = [i for i, plane in enumerate(planes) if plane.shape[-1] == size]
        group = torch.stack([planes[i] for i in places])
        image[places] = group if size == PIXELS else F.resize(group, [PIXELS, PIXELS])
    return image


def two_views(
    image_of: Callable[[int], Tensor], augmentation: MoCoAugmentation, *, num_dates: int
) -> list[Tensor]:
    """Return views of two dates drawn independently; `image_of` is asked once for each date."""
    dates = [random.randrange(num_dates) for _ in range(2)]
    images = {date: image_of(date) for date in dict.fromkeys(dates)}
    return [augmentation(images[date]) for date in dates]
