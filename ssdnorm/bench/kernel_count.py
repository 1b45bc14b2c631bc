"""This file is about counting kernels and waits without a GPU: by the operations that PyTorch dispatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# views, and what only makes a tensor's description or its memory: nothing is launched
_FREE = frozenset(
    "_reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_like empty_strided expand lift_fresh "
    "new_empty new_empty_strided permute select slice split split_with_sizes squeeze t transpose unbind unsqueeze view "
    "unflatten flatten sym_size sym_numel sym_stride is_pinned resize_ set_".split()
)
# the host needs a number before it can go on
_WAITS = frozenset(
    "_local_scalar_dense item is_nonzero nonzero masked_select equal unique _unique2 unique_dim unique_consecutive "
    "repeat_interleave bincount nms allclose".split()
)
_INDEXING = frozenset(("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"))


class KernelCount(TorchDispatchMode):
    """Counts operations that would launch work on a GPU, and those that would make the host wait for it.

    An approximation: one kernel for each dispatched operation that is no view. Simple and fused operations are one on a
    GPU; a sort, a large topk, a full reduction or torchvision's nms launch a few. A wait is an ``item``, a ``nonzero``,
    indexing with a mask (not filling by one), or an nms, which brings its overlaps to the host. ``uploads`` are
    tensors made of Python's numbers, each a small copy to the device. Code that has another way for a GPU runs it
    within :func:`ssdnorm.boxes.waiting.as_on_a_gpu`.

    How it was calibrated: torchvision's SSD loss, forward and backward at batch 32 with 81 classes and eight objects an
    image, was measured on a GPU at 2016 kernels and 101 waits; counted here are 2182 and 98, uploads apart.

    Example:
        >>> with KernelCount() as count:
        ...     x = torch.ones(3) + 1
        ...     _ = x[x > 1.5].view(3)
        >>> count.kernels, count.waits
        (4, 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits = 0
        self.uploads = 0

    @property
    def kernels(self) -> int:
        """Operations that are no views."""
        return sum(n for name, n in self.operations.items() if name not in _FREE)

    def most_common(self, number: int = 10) -> list[tuple[str, int]]:
        """The operations that were counted most often, with their numbers."""
        return [(name, n) for name, n in self.operations.most_common() if name not in _FREE][:number]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        self.operations[name] += 1
        self.waits += name in _WAITS or (name in _INDEXING and _reads_a_mask(args))
        self.uploads += name == "lift_fresh" and args[0].ndim > 0
        return func(*args, **(kwargs or {}))


def _reads_a_mask(args: Sequence[Any]) -> bool:
    """Whether an indexing operation must count a mask's places; one number put at them is a fill that need not."""
    fills = len(args) > 2 and args[2].ndim == 0
    masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not fills
