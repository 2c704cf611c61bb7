"""What a backbone makes of labelled images."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.backbones import to_input


@torch.no_grad()
def features(
    backbone: nn.Module, images: UInt8[Tensor, "n c h w"], *, pixels: int, batch_size: int = 256
) -> Float[Tensor, "n d"]:
    """Return a backbone's features of images, every rank computing a part and holding all.

    Args:
        backbone: In whichever mode; it is asked as for evaluation, and left as it was.
        images: Bytes as in shards, on the CPU, the same on every rank.
        pixels: Side that images are brought to before (bilinear).
        batch_size: Images at once.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    for buffer in backbone.buffers():  # rank 0's batch norm statistics are those that are kept
        distributed.broadcast(buffer)
    parameter = next(backbone.parameters())
    ranks = distributed.world_size()
    own = torch.arange(-(-len(images) // ranks)) * ranks + distributed.rank()
    found = []
    for part in images[own % len(images)].split(batch_size):  # the last may repeat the first few
        resized = part.to(parameter.device)
        if resized.shape[-2:] != (pixels, pixels):
            size = (pixels, pixels)
            resized = F.interpolate(resized.float(), size, mode="bilinear").round().byte()
        output = backbone(to_input(resized, dtype=parameter.dtype))
        found.append(output if output.ndim == 2 else output[:, 0])
    for module, mode in modes:
        module.training = mode
    rows = distributed.gather_rows(torch.cat(found))  # rank by rank: image r, r + W, r + 2 W, …
    return rows.unflatten(0, (ranks, -1)).transpose(0, 1).flatten(0, 1)[: len(images)]
