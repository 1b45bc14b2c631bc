"""The command line: `ssdnorm train`, `ssdnorm compare` and others, as in scripts/."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ssdnorm import __version__

COMMANDS = {
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
        module.run(parsed, rest)
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
