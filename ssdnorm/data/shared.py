"""This file is about arrays that processes share, however these are started."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class SharesArrays:
    """For objects that hold numpy arrays: pickling moves these to shared memory, once, instead of copying them.

    A forked process reads its parent's pages. One that is spawned (or comes from a fork server, Python 3.14's default)
    gets its objects by pickle; with this class as a base it maps the same shared memory as its parent.

    Example:
        >>> class Numbers(SharesArrays):
        ...     def __init__(self):
        ...         self.primes = np.array([2, 3, 5])
        >>> numbers = Numbers()
        >>> numbers.__getstate__()["primes"].is_shared()
        True
        >>> numbers.primes.tolist()
        [2, 3, 5]
    """

    _tensors: dict[str, Tensor]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_tensors"}
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        if "_tensors" not in vars(self):
            tensors = {name: torch.from_numpy(np.array(array)).share_memory_() for name, array in arrays.items()}
            self._hold(tensors)
        return {**state, **self._tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self._hold({name: value for name, value in state.items() if isinstance(value, Tensor)})

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        # a tensor knows that its memory is shared and is passed on by name; an array made from it does not
        object.__setattr__(self, "_tensors", tensors)  # in frozen dataclasses, too
        for name, tensor in tensors.items():
            object.__setattr__(self, name, tensor.numpy())
