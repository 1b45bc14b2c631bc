"""This file is about counting kernels and waits without a GPU: by the operations that PyTorch dispatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# views, and what only makes a tensor's description or its memory: nothing is launched
_FREE = {
    *("alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
}
# the host needs a number before it can go on
_WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "nms", "bincount"),
    *("unique_dim", "_unique2", "unique_consecutive", "repeat_interleave"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_ASKED_FOR = {Tensor.tolist, Tensor.numpy, Tensor.cpu}  # not dispatched where the tensor is on a CPU anyway


class KernelCount:
    """Counts operations that would launch work on a GPU, and those that would make the host wait for it.

    An approximation: one kernel for each dispatched operation that is no view. Simple and fused operations are one on a
    GPU; a sort, a large topk, a full reduction or torchvision's nms launch a few. A wait is an ``item``, a ``nonzero``,
    indexing with a mask (not filling by one), or an nms, which brings its overlaps to the host. ``uploads`` are
    tensors made of Python's numbers, each a small copy to the device.

    It has not been compared with a GPU's own count.

    Example:
        >>> with KernelCount() as count:
        ...     x = torch.ones(3) + 1
        ...     _ = x[x > 1.5].view(3)
        >>> count.kernels, count.waits
        (4, 1)
    """

    def __init__(self) -> None:
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

    def __enter__(self) -> KernelCount:
        self._modes = ExitStack()
        self._modes.enter_context(_Dispatched(self))
        self._modes.enter_context(_Asked(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._modes.close()


class _Dispatched(TorchDispatchMode):
    def __init__(self, count: KernelCount) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        self.count.operations[name] += 1
        self.count.waits += name in _WAITS or (name in _INDEXING and _reads_a_mask(args))
        self.count.uploads += name == "lift_fresh" and args[0].ndim > 0
        return func(*args, **(kwargs or {}))


class _Asked(TorchFunctionMode):
    def __init__(self, count: KernelCount) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count.waits += func in _ASKED_FOR
        return func(*args, **(kwargs or {}))


def _reads_a_mask(args: Sequence[Any]) -> bool:
    """Whether an indexing operation must count a mask's places; one number put at them is a fill that need not."""
    fills = len(args) > 2 and args[2].ndim == 0
    masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not fills
