"""This file is about synchronised batch norm that also works on the CPU, with one process or many."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm over the images of all processes; with one process it is batch norm.

    Differs from ``nn.SyncBatchNorm``, whose place it takes (same arguments, same state dict): that one refuses CPU
    tensors as soon as a process group exists, here they are reduced through the group (gloo), gradients included. Only
    ``DistributedDataParallel`` still refuses to wrap it on a CPU.

    Shape:
        input ``(B, C, …)``, B may differ between processes; output the same shape.

    Example:
        >>> SyncBatchNorm(4)(torch.randn(2, 4, 3, 3)).shape
        torch.Size([2, 4, 3, 3])
    """

    def forward(self, input: Tensor) -> Tensor:
        use_batch = self.training or self.running_mean is None
        together = use_batch and distributed.is_available() and distributed.is_initialized()
        if not (together and input.device.type == "cpu"):
            return super().forward(input)
        count = torch.tensor([float(input.numel() // input.shape[1])])
        axes = [0, *range(2, input.dim())]
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        local = torch.cat([wide.sum(axes), count.to(wide.dtype)])
        total = self._sum_over_processes(local)
        mean = total[:-1] / total[-1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        centred = wide - mean.reshape(shape)
        var = self._sum_over_processes(centred.square().sum(axes)) / total[-1]
        self._update_running(mean.detach(), var.detach(), total[-1].detach())
        y = centred * torch.rsqrt(var + self.eps).reshape(shape)
        if self.affine:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y.to(input.dtype)

    def _sum_over_processes(self, x: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce  # not there in builds without torch.distributed

        summed: Tensor = all_reduce(x, group=self.process_group or distributed.group.WORLD)
        return summed

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if not (self.training and self.track_running_stats):
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), momentum)
