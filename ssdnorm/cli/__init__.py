"""The command line: `ssdnorm train`, `ssdnorm compare` and others, as in scripts/."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ssdnorm import __version__
from ssdnorm.files import remove_unfinished
from ssdnorm.messages import did_you_mean, lost_worker, one_line, unknown_name

GROUPS = {
    "your data": {
        "inspect": "look at a data set: format, classes, mistakes, coverage of default boxes",
        "init": "write a config for a data set",
    },
    "a detector": {
        "train": "train a detector into a run folder",
        "evaluate": "evaluate a run, a checkpoint or a file of detections",
        "predict": "draw the detections of a checkpoint on pictures",
    },
    "norm choices": {
        "compare": "train arms × seeds and say how they differ, and how sure that is",
        "diagnose": "measure activations, scales, gradients and batch norms of a network",
    },
    "files": {
        "convert": "convert a checkpoint from another SSD, or to torchvision",
        "export": "write a detector as ONNX or torch.export file",
        "schema": "write the JSON schemas of config files, for editors",
        "completion": "print what completes commands, options and config keys in bash or zsh",
    },
}
COMMANDS = {name: help for group in GROUPS.values() for name, help in group.items()}
_MODULES = {name: f"ssdnorm.cli.{name}" for name in COMMANDS}
# commands that take config keys → their prefix
CONFIG_KEYS = dict.fromkeys(("inspect", "init", "train", "evaluate", "diagnose"), "") | {"compare": "base."}
_STDOUT = 1  # file descriptor


class Parser(argparse.ArgumentParser):
    """argparse with mistakes in one line, as a ``ValueError``."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))

    @property
    def actions(self) -> list[argparse.Action]:
        """Every option and argument."""
        return self._actions

    def parse(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and the words that are none, such as config keys; refuses --outptu with the nearest option."""
        known = [option for action in self.actions for option in action.option_strings]
        for word in (word.partition("=")[0] for word in words if word.startswith("--") and word != "--"):
            if word in known or "." in word:  # dotted words are config keys, and checked where the config is
                continue
            from ssdnorm.config import Config  # not for words that argparse knows

            sections = [f"--{name}" for name in Config.model_fields]
            if word not in sections:
                guess = did_you_mean(word, [*known, *sections])
                raise ValueError(f"{word}: {self.prog} has no such option; see --help.{guess}")
        return self.parse_known_args(words)


def main(arguments: Sequence[str] | None = None, known: Mapping[str, str] = _MODULES) -> int:
    """Run a command; bad input ends in one line on standard error and exit code 2.

    Args:
        arguments: the command line without the program's name; None reads ``sys.argv``.
        known: modules of the commands, by name; each has ``add_arguments(parser)`` and ``run(arguments, rest)``, and is
            imported only when its command is called. An option whose ``dest`` is a config key is short for that key.
    """
    # Large pages for large tensors, where Linux offers them: a training step on a CPU is otherwise slowed down by page
    # faults (0.71 s instead of 0.59 s at width 1/8, batch 16). PyTorch reads this once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    first, *words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("ssdnorm").setLevel(logging.INFO)
    try:
        if first.startswith("-"):
            general_parser().parse_known_args([first])
        if first not in known:
            raise ValueError(unknown_name("command", first, known))
        parsed, rest = command_parser(first, known).parse(words)
        if first not in CONFIG_KEYS:
            check_no_extra_arguments(rest)
        if output := getattr(parsed, "output", None):
            remove_unfinished(Path(output), Path(output).parent, older_than=3600.0)
        import_module(known[first]).run(parsed, [*_long_options(parsed, rest), *rest])
        print(end="", flush=True)  # fails here, not when Python ends, if nobody reads the output any more
    except BrokenPipeError as error:
        poll = select.poll()
        poll.register(_STDOUT, 0)  # reports errors alone; true where the other end of the pipe is closed
        if poll.poll(0):
            _end_line()
            os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # Python flushes once more at the end
            return 141  # as a process that SIGPIPE ends
        return _fail(f"error: {one_line(error)}", 2)
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not lost_worker(error):
            raise
        return _fail(f"error: {one_line(error)}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def command_parser(name: str, known: Mapping[str, str] = _MODULES) -> Parser:
    """The parser of one command, whose module is imported."""
    module = import_module(known[name])
    parser = Parser(
        prog=f"ssdnorm {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def check_no_extra_arguments(rest: Sequence[str]) -> None:
    """Raise ``ValueError`` for an argument that no option of the command took."""
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see --help")


def general_parser() -> Parser:
    """The parser of ``ssdnorm --help``, which lists the commands."""
    groups = [
        "\n".join([f"{title}:", *(f"  {name:<12}{help}" for name, help in group.items())])
        for title, group in GROUPS.items()
    ]
    parser = Parser(
        prog="ssdnorm",
        usage="ssdnorm COMMAND [options]",
        description="\n\n".join(["SSD object detectors in which every norm choice is honoured or refused.", *groups]),
        epilog="ssdnorm COMMAND --help has examples and all options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ssdnorm {__version__}")
    return parser


def _long_options(parsed: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The config keys for which short options were given, such as --training.seed for --seed."""
    long: list[str] = []
    for key, value in vars(parsed).items():
        if "." not in key or value is None:
            continue
        if any(word.partition("=")[0] == f"--{key}" for word in rest):
            raise ValueError(f"--{key}: is given twice, once by its short option; leave one out")
        long += [f"--{key}", value]
    return long


def _fail(message: str, code: int) -> int:
    _end_line()
    print(message, file=sys.stderr)
    return code


def _end_line() -> None:
    """Let what follows begin on a line of its own, not behind a progress bar."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
