"""Batch norms over all ranks: torch's on CUDA, the same arithmetic elsewhere.

torch's SyncBatchNorm refuses CPU tensors, and a run on gloo must train as one on nccl does.
"""

import torch
from torch import Tensor, nn

from ssl4eo_stream import distributed


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose mean and variance are those of all ranks' equal batches, on any device."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions from two."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized batch, of the same shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        mean = distributed.mean_with_gradient(input.mean(axes))
        centred = input - mean.view(shape)
        variance = distributed.mean_with_gradient(centred.square().mean(axes))
        count = input.numel() // input.shape[1] * distributed.world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
            self.num_batches_tracked += 1
        output = centred * (variance + self.eps).rsqrt().view(shape)
        return output * self.weight.view(shape) + self.bias.view(shape) if self.affine else output


def over_all_ranks(module: nn.Module) -> nn.Module:
    """Make every batch norm of a module one over all ranks, if there are several.

    Parameters, buffers and their names stay.
    """
    if distributed.world_size() == 1:
        return module
    if distributed.has_nccl():
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            norm = GlobalBatchNorm(
                child.num_features, eps=child.eps, momentum=child.momentum, affine=child.affine
            )
            norm.load_state_dict(child.state_dict())
            norm.train(child.training)
            setattr(module, name, norm)
        else:
            over_all_ranks(child)
    return module
