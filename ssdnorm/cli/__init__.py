"""The command line: `ssdnorm train`, `ssdnorm compare` and others, as in scripts/."""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

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
SHORT_OPTIONS = {  # of commands that read a config: options that other commands have too, and their keys
    "train": {"--seed": "short for --training.seed", "--device": "cpu or cuda; short for --runtime.accelerator"},
    "evaluate": {"--device": "cpu or cuda; short for --runtime.accelerator"},
}
CONFIG_KEYS = dict.fromkeys(("inspect", "init", "train", "evaluate", "diagnose"), "") | {
    "compare": "base."
}  # of commands that take them → their prefix
_KEYS = {"seed": "--training.seed", "device": "--runtime.accelerator"}
_STDOUT = 1  # file descriptor
_MODULES = {name: f"ssdnorm.cli.{name}" for name in COMMANDS}


def main(arguments: Sequence[str] | None = None, known: Mapping[str, str] = _MODULES) -> int:
    """Run a command; bad input ends in one line on standard error and exit code 2.

    Args:
        arguments: the command line without the program's name; None reads ``sys.argv``.
        known: modules of the commands, by name; each has ``add_arguments(parser)`` and ``run(arguments, rest)``, and is
            imported only when its command is called.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    first = arguments[0] if arguments else "--help"
    if first not in known and not first.startswith("-"):
        print(f"error: {unknown_name('command', first, known)}", file=sys.stderr)
        return 2
    module = import_module(known[first]) if first in known else None
    parser = make_parser({first: module} if module else {}, known)
    if module and (mistake := _unknown_option(arguments[1:], parser, first)):
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    parsed, rest = parser.parse_known_args(arguments or ["--help"])
    assert module is not None, "argparse ends here without a command"
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("ssdnorm").setLevel(logging.INFO)
    try:
        _check_paths(arguments)
        if first not in CONFIG_KEYS:
            check_no_extra_arguments(rest)
        if output := getattr(parsed, "output", None):
            remove_unfinished(Path(output), Path(output).parent, older_than=3600.0)
        module.run(parsed, _long_options(parsed, rest) if first in SHORT_OPTIONS else rest)
        print(end="", flush=True)  # fails here, not when Python ends, if nobody reads the output any more
    except BrokenPipeError as error:
        _end_line()
        if _is_read(_STDOUT):
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # Python flushes once more at the end
        return 141  # as a process that SIGPIPE ends
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not lost_worker(error):
            raise
        _end_line()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _end_line()
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def make_parser(modules: Mapping[str, ModuleType], known: Mapping[str, str] = _MODULES) -> argparse.ArgumentParser:
    """The parser of all commands; those in ``modules`` have their options, the others only their names."""
    plain = argparse.RawDescriptionHelpFormatter
    groups = {title: [name for name in group if name in known] for title, group in GROUPS.items()}
    lines = [
        "\n".join([f"{title}:", *(f"  {name:<12}{COMMANDS[name]}" for name in names)])
        for title, names in groups.items()
        if names
    ]
    parser = argparse.ArgumentParser(
        prog="ssdnorm",
        usage="ssdnorm COMMAND [options]",
        description="SSD object detectors in which every norm choice is honoured or refused.\n\n" + "\n\n".join(lines),
        epilog="ssdnorm COMMAND --help has examples and all options.",
        formatter_class=plain,
    )
    parser.add_argument("--version", action="version", version=f"ssdnorm {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog="ssdnorm"
    )
    for name in known:
        command = commands.add_parser(name, help=COMMANDS.get(name), allow_abbrev=False)
        if module := modules.get(name):
            command.description, command.formatter_class = module.__doc__, plain
            module.add_arguments(command)
            for option, meaning in SHORT_OPTIONS.get(name, {}).items():
                command.add_argument(option, help=meaning)
    return parser


def check_no_extra_arguments(rest: Sequence[str]) -> None:
    """Raise ``ValueError`` for an argument that no option of the command took."""
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see --help")


def commands_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction:
    """The action whose ``choices`` are the parsers of the commands, by name."""
    (choice,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return choice


def _long_options(parsed: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The config keys that --seed and --device stand for, before those that were given in full."""
    short = []
    for name, key in _KEYS.items():
        if (value := getattr(parsed, name, None)) is None:
            continue
        if any(word.partition("=")[0] == key for word in rest):
            raise ValueError(f"--{name}: is short for {key}, which is given too; leave one out")
        if name == "device" and value not in ("cpu", "cuda"):
            raise ValueError(
                f"--device: choose cpu or cuda; got {value!r}. CUDA_VISIBLE_DEVICES=1 chooses one of several GPUs"
            )
        short += [key, {"cuda": "gpu"}.get(value, value)]
    return [*short, *rest]


def _unknown_option(words: Sequence[str], parser: argparse.ArgumentParser, command: str) -> str | None:
    """What to say of a word such as --outptu; dotted words are config keys, and checked where the config is."""
    actions = commands_of(parser).choices[command]._actions
    known = [option for action in actions for option in action.option_strings]
    for word in (word.partition("=")[0] for word in words if word.startswith("--") and word != "--"):
        if word in known or "." in word:
            continue
        from ssdnorm.config import Config  # not for words that argparse knows

        sections = [f"--{name}" for name in Config.model_fields]
        if word not in sections:
            return f"{word}: ssdnorm {command} has no such option; see --help.{did_you_mean(word, [*known, *sections])}"
    return None


def _check_paths(arguments: Sequence[str]) -> None:
    for option in ("--output", "--config"):
        if f"{option}=" in arguments or (option, "") in pairwise(arguments):
            raise ValueError(f"{option}: a path is needed; got an empty one")


def _is_read(descriptor: int) -> bool:
    """Whether the other end of a pipe is open; true for files and terminals."""
    poll = select.poll()
    poll.register(descriptor, 0)  # reports errors alone
    return not poll.poll(0)


def _end_line() -> None:
    """Let what follows begin on a line of its own, not behind a progress bar."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
