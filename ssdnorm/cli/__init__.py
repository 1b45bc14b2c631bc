"""The command line: `ssdnorm train`, `ssdnorm compare` and others, the same commands as scripts/."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ssdnorm import __version__

_COMMANDS = {
    name: f"ssdnorm.cli.{name}" for name in ("train", "evaluate", "compare", "predict", "diagnose", "convert", "export")
}


def main(words: Sequence[str] | None = None, known: Mapping[str, str] = _COMMANDS) -> int:
    """Run a command; bad input ends in one line on standard error and exit code 2.

    Args:
        words: the command line without the program's name; None reads ``sys.argv``.
        known: modules of the commands, by name.
    """
    words = sys.argv[1:] if words is None else list(words)
    parser = argparse.ArgumentParser(prog="ssdnorm", description="SSD detectors, with every norm choice honoured.")
    parser.add_argument("--version", action="version", version=f"ssdnorm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(known))
    # only the command that is asked for is imported: some need none of the training code
    wanted = words[:1] if words and words[0] in known else list(known)
    modules = {name: import_module(known[name]) for name in wanted}
    for name, module in modules.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    arguments, rest = parser.parse_known_args(words)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    try:
        modules[arguments.command].run(arguments, rest)
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
