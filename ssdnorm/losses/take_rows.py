"""This file is about reading a few rows of a large tensor, with a gradient that is zero everywhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` on a CPU, for rows that are all different.

    The gradient of plain indexing adds to a tensor that was filled with zeros. Here the zeros are pages that the
    operating system hands out on first touch, so the rows that nobody took cost little. Differentiable twice.

    Shape:
        x ``(N, C)``; rows ``(R,)`` int64; output ``(R, C)``.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
        >>> (take_rows(x, torch.tensor([2, 0])) * torch.tensor([[5.0], [7.0]])).sum().backward()
        >>> x.grad.flatten().tolist()
        [7.0, 0.0, 5.0]
    """
    return _TakeRows.apply(x, rows)


class _TakeRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _PutRows.apply(grads[0], rows, ctx.num_rows), None


class _PutRows(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return untouched_zeros((num_rows, *values.shape[1:]), values.dtype).index_copy_(0, rows, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _TakeRows.apply(grads[0], rows), None, None


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU without writing them: numpy asks the operating system for zero pages (calloc), torch fills."""
    return torch.from_numpy(np.zeros(shape, f"i{dtype.itemsize}")).view(dtype)
