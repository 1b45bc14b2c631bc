"""Messages about mistakes: the nearest known name, and an error in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(got: object, names: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message that has listed the choices; nothing if none of them is near, whatever their case.

    Args:
        prefix: what the guess is shown with in front.

    Example:
        >>> did_you_mean("Batchnorm", ["batch_norm", "none"]), did_you_mean("zzz", ["none"])
        (" Did you mean 'batch_norm'?", '')
    """
    by_lower = {name.lower(): name for name in reversed(list(names))}
    near = get_close_matches(str(got).lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {prefix + by_lower[near[0]]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """What an error says, in one line; with its kind where it is one that users should not see.

    Example:
        >>> one_line(ValueError("no   room")), one_line(KeyError("AP"))
        ('no room', "KeyError: 'AP'")
    """
    text = " ".join(str(error).split())
    if lost := lost_worker(error):
        return lost
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return text if isinstance(error, ValueError | OSError | ArithmeticError) else f"{type(error).__name__}: {text}"


def lost_worker(error: BaseException) -> str | None:
    """One line about a process that loads images and is gone, or None for other errors."""
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not text.startswith("DataLoader "):
        return None
    if late := re.match(r"DataLoader timed out after (\d+)", text):
        return (
            f"loading: no batch came for {late[1]} seconds. Are the images within reach, and has /dev/shm room? "
            "runtime.num_workers: 0 loads them in the training process"
        )
    return (
        "loading: a process that loads images was killed or ended by itself; is there too little memory? Try fewer "
        "runtime.num_workers"
    )
