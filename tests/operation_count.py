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
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
_SYNCS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "nms", "bincount", "_unique2"}
_READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}  # not dispatched for a tensor on the CPU


class OperationCount:
    """Counts operations that would launch kernels, and those that would make the host wait for a GPU.

    A tensor made of Python's numbers counts as a sync: its copy to the device is one.
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
                indices = args[1] if name.startswith("index") and isinstance(args[1], list) else []
                masks = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
                count.syncs += name in _SYNCS or masks or (name == "lift_fresh" and args[0].ndim > 0)
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
