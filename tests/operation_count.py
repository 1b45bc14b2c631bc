"""Count the operations and host syncs of a GPU without one, from what PyTorch dispatches on a CPU."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_VIEWS = {  # and allocations: nothing is launched
    *("alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "permute", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
}
_SYNCS = {  # the host needs a value before it can go on
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "nms", "bincount"),
    *("unique_dim", "_unique2", "unique_consecutive", "repeat_interleave"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}  # not dispatched for a tensor on the CPU


def _reads_a_mask(args: Any) -> bool:
    """Whether indexing counts the places of a mask first, as it need not to fill them with one number."""
    fills = len(args) > 2 and args[2].ndim == 0
    return not fills and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


class OperationCount:
    """Count the operations that would launch work on a GPU, and those for which the host would wait for it.

    An approximation: one launch per dispatched operation that is not a view; a sort, a large topk, a full reduction or
    an NMS are a few kernels. A sync is an ``item``, a ``nonzero``, indexing with a mask (not filling by one), an NMS,
    which copies its overlaps to the host, or a tensor made of Python numbers, whose copy to the device is one.

    Example:
        >>> with OperationCount() as count:
        ...     x = torch.ones(3) + 1
        ...     _ = x[x > 1.5].view(3)
        >>> count.operations, count.syncs
        (4, 1)
    """

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.syncs = 0

    @property
    def operations(self) -> int:
        return sum(n for name, n in self.names.items() if name not in _VIEWS)

    def __enter__(self) -> OperationCount:
        count = self

        class Dispatched(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = func._schema.name.split("::")[1]
                count.names[name] += 1
                uploads = name == "lift_fresh" and args[0].ndim > 0
                count.syncs += name in _SYNCS or uploads or (name in _INDEXING and _reads_a_mask(args))
                return func(*args, **(kwargs or {}))

        class Read(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                count.syncs += func in _READS
                return func(*args, **(kwargs or {}))

        self._modes = ExitStack()
        self._modes.enter_context(Dispatched())
        self._modes.enter_context(Read())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._modes.close()
