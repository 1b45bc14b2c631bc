"""The command line: `ssdnorm train`, `ssdnorm compare` and others, as in scripts/."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from ssdnorm import __version__
from ssdnorm.files import remove_unfinished
from ssdnorm.messages import lost_worker, one_line

COMMANDS = {
    "inspect": "look at a data set: format, classes, mistakes, coverage of default boxes",
    "init": "write a config for a data set",
    "train": "train a detector into a run folder",
    "evaluate": "evaluate a run, a checkpoint or a file of detections",
    "compare": "train arms × seeds and say how they differ, and how sure that is",
    "predict": "draw the detections of a checkpoint on pictures",
    "diagnose": "measure activations, scales, gradients and batch norms of a network",
    "convert": "convert a checkpoint from another SSD, or to torchvision",
    "export": "write a detector as ONNX or torch.export file",
    "schema": "write the JSON schemas of config files, for editors",
}
_MODULES = {name: f"ssdnorm.cli.{name}" for name in COMMANDS}


def main(arguments: Sequence[str] | None = None, known: Mapping[str, str] = _MODULES) -> int:
    """Run a command; bad input ends in one line on standard error and exit code 2.

    Args:
        arguments: the command line without the program's name; None reads ``sys.argv``.
        known: modules of the commands, by name; each has ``add_arguments(parser)`` and ``run(arguments, rest)``, and is
            imported only when its command is called.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="ssdnorm", description="SSD detectors, with every norm choice honoured.")
    parser.add_argument("--version", action="version", version=f"ssdnorm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(known))
    called = next((argument for argument in arguments if argument in known), None)
    module = None if called is None else import_module(known[called])
    for name in known:
        command = commands.add_parser(name, help=COMMANDS.get(name), allow_abbrev=False)
        if module is not None and name == called:
            command.description = module.__doc__
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(command)
    parsed, rest = parser.parse_known_args(arguments)
    assert module is not None, "argparse ends here without a command"
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    try:
        _check_paths(arguments)
        if output := getattr(parsed, "output", None):
            remove_unfinished(Path(output), Path(output).parent, older_than=3600.0)
        module.run(parsed, rest)
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
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


def _check_paths(arguments: Sequence[str]) -> None:
    for option in ("--output", "--config"):
        if f"{option}=" in arguments or (option, "") in pairwise(arguments):
            raise ValueError(f"{option}: a path is needed; got an empty one")


def _end_line() -> None:
    """Let what follows begin on a line of its own, not behind a progress bar."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
