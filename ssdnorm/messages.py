"""Messages: the nearest known name, a value that is not too long, one line of an exception, silent loggers."""

from __future__ import annotations

import logging
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_LONGEST_NAME = 100  # characters; comparing two names takes the product of their lengths
_MOST_NAMES = 1000
_LONGEST_LINE = 1000
_LONGEST_VALUE = 300

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlist = _repr.maxtuple = 12
_repr.maxset = _repr.maxdict = 6
_repr.maxlevel = 3


def shown(value: object) -> str:
    """The ``repr`` of a value, short whatever the value is.

    Example:
        >>> shown([1, "a"]), len(shown("x" * 5000))
        ("[1, 'a']", 80)
    """
    try:
        text = _repr.repr(value)
        return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
    except ValueError:  # Python prints no integers of more than 4,300 digits
        return "a number of thousands of digits"


def did_you_mean(got: object, names: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message that has listed the choices; nothing if none of them is near, whatever their case.

    Args:
        prefix: what the guess is shown with in front.

    Example:
        >>> did_you_mean("Batchnorm", ["batch_norm", "none"]), did_you_mean("zzz", ["none"])
        (" Did you mean 'batch_norm'?", '')
    """
    known = [name for name in names if len(name) <= _LONGEST_NAME][:_MOST_NAMES]
    by_lower = {name.lower(): name for name in reversed(known)}
    text = str(got) if isinstance(got, str | os.PathLike) else shown(got)
    near = get_close_matches(text[: _LONGEST_NAME + 1].lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {prefix + by_lower[near[0]]!r}?" if near else ""


def unknown_name(what: str, got: object, choices: Iterable[str]) -> str:
    """The sentence for a name that is not among the choices, with the nearest guess.

    Example:
        >>> unknown_name("class", "rbc", ["RBC", "WBC"])
        "unknown class 'rbc'; choose one of: RBC, WBC. Did you mean 'RBC'?"
    """
    names = list(choices)
    listed = ", ".join(name if len(name) <= _LONGEST_NAME else shown(name) for name in names[:30])
    more, hint = ", …" if len(names) > 30 else "", did_you_mean(got, names)
    return f"unknown {what} {shown(got)}; choose one of: {listed}{more}{hint and '.' + hint}"


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 1,000 characters; with its kind where users should not see that kind.

    Example:
        >>> one_line(ValueError("no   room")), one_line(KeyError("AP"))
        ('no room', "KeyError: 'AP'")
    """
    if lost := lost_worker(error):
        return lost
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = " ".join(f"{error.filename}: {error.strerror}".split())
    if isinstance(error, MemoryError):
        text = f"not enough memory{text and f' ({text})'}"
    elif not isinstance(error, ValueError | OSError | ArithmeticError):
        text = f"{type(error).__name__}: {text}"
    half = _LONGEST_LINE // 2
    return text if len(text) <= _LONGEST_LINE else f"{text[: half - 2]} … {text[1 - half :]}"


@contextmanager
def quiet_loggers(level: int, *names: str) -> Iterator[None]:
    """Let loggers pass nothing below a level for a while."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, own_level in zip(loggers, before, strict=True):
            logger.setLevel(own_level)


def lost_worker(error: BaseException) -> str | None:
    """One line about a process that is gone, of those that train or load images; None for other errors."""
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError):
        return None
    if type(error).__name__.startswith("Dist") or "/gloo/" in text:  # torch.distributed's, without importing it
        reason = re.sub(r"^\[\S+\] ", "", text).partition(". ")[0]
        return f"another process of this training did not respond within runtime.timeout, or exited: {reason}"
    if not text.startswith("DataLoader "):
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
