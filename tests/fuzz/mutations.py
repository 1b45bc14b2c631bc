"""Damage: hypothesis strategies that change a tree of JSON values, or bytes, in a few places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
# None, numbers at the edges of every type, text that means something elsewhere, containers of the wrong kind
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, -5, 2, 3, 300, 10_000_000, 2**31, 2**63, 2**64, 10**400),
    *(0.0, -0.0, 0.5, -0.5, 20.0, 1e-300, 1e30, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "a", "0", "1", "nan", "é", "\x00", "\n", "../../etc/passwd", "/dev/zero", "x" * 5000, "$\\frac{x$"),
    *("none", "l2_norm", "os:system", "os.path:join", "a:b", ":", "{}", "<b>&lt;</b>", "\ud800"),
    *([], {}, [[]], [None], [1, 2], ["a", "a"], {"a": 1}, {"kind": "os:system"}, [0] * 1000, {"": {"": ""}}),
]


@st.composite
def mutated(draw: Draw, tree: Any, *, most: int = 3) -> Any:
    """A tree with up to ``most`` changes: values replaced, keys lost, renamed or added, items repeated or moved."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(root))
        container, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.integers(0, 9))
        if action <= 4:
            container[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif action == 5 and container is not root:
            del container[key]
        elif action == 6:
            other, place = places[draw(st.integers(0, len(places) - 1))]
            container[key] = copy.deepcopy(other[place])
        elif action == 7 and isinstance(container, dict):
            container[draw(st.sampled_from(["weights", "id", "extra", "a.b", str(key).upper()]))] = container[key]
        elif action == 8 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif action == 9:
            value = container[key]
            if isinstance(value, bool | int | float) and abs(value) < 1e9:
                container[key] = draw(st.sampled_from([f"{value}"[:9], -value, [value], value == 1, 1.5]))
            else:
                container[key] = [value]
    return root[0]


def _places(value: Any) -> Any:
    """Every (container, key) of a tree."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list) and len(value[key]) < 100:
            yield from _places(value[key])


@st.composite
def damaged(draw: Draw, data: bytes, *, most: int = 3) -> bytes:
    """Bytes cut off, changed, lost, repeated, zeroed or with others inserted."""
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = start + draw(st.sampled_from([1, 2, 8, 64, 4096]))
        part = data[start:stop]
        new = draw(
            st.sampled_from(
                [b"", b"\x00" * len(part), b"\xff" * len(part), part + part, b"[" * 5000, b"{", b'"', b"&*a"]
            )
            | st.binary(min_size=1, max_size=8)
        )
        data = data[:start] + new + (data[stop:] if draw(st.integers(0, 4)) else b"")
    return data
