"""Count operations and host syncs without a GPU, as PyTorch dispatches them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# views, and operations that only describe or allocate a tensor: nothing is launched
_FREE = {
    *("alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
}
# the host needs a value before it can go on
_SYNCS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "nms", "bincount"),
    *("unique_dim", "_unique2", "unique_consecutive", "repeat_interleave"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}  # not dispatched for a tensor that is on a CPU anyway


class OperationCount:
    """Count the operations that would launch work on a GPU, and those for which the host would wait for it.

    An approximation: one launch per dispatched operation that is not a view. Elementwise and fused operations are one
    kernel on a GPU; a sort, a large topk, a full reduction or torchvision's nms are a few. A sync is an ``item``, a
    ``nonzero``, indexing with a mask (not filling by one), or an nms, which copies its overlaps to the host.
    ``uploads`` are tensors made of Python numbers, each a small copy to the device.

    Example:
        >>> with OperationCount() as count:
        ...     x = torch.ones(3) + 1
        ...     _ = x[x > 1.5].view(3)
        >>> count.operations, count.syncs
        (4, 1)
    """

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.syncs = 0
        self.uploads = 0

    @property
    def operations(self) -> int:
        """Operations that are not views."""
        return sum(n for name, n in self.by_name.items() if name not in _FREE)

    def most_common(self, number: int = 50) -> list[tuple[str, int]]:
        """The most frequent operations, with their numbers."""
        return [(name, n) for name, n in self.by_name.most_common() if name not in _FREE][:number]

    def __enter__(self) -> OperationCount:
        self._modes = ExitStack()
        self._modes.enter_context(_Dispatched(self))
        self._modes.enter_context(_Read(self))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._modes.close()


def count_operations(call: Callable[[], Any]) -> OperationCount:
    """Operations and syncs of a call of ours, on tensors of a CPU."""
    with OperationCount() as count:
        call()
    return count


class _Dispatched(TorchDispatchMode):
    def __init__(self, count: OperationCount) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        self.count.by_name[name] += 1
        self.count.syncs += name in _SYNCS or (name in _INDEXING and _reads_a_mask(args))
        self.count.uploads += name == "lift_fresh" and args[0].ndim > 0
        return func(*args, **(kwargs or {}))


class _Read(TorchFunctionMode):
    def __init__(self, count: OperationCount) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count.syncs += func in _READS
        return func(*args, **(kwargs or {}))


def _reads_a_mask(args: Sequence[Any]) -> bool:
    """Whether an indexing operation must count the places of a mask; filling them with one number need not."""
    fills = len(args) > 2 and args[2].ndim == 0
    masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    return bool(masks) and not fills
