"""Print a script that completes commands, options and config keys: ssdnorm completion bash

examples:
  source <(ssdnorm completion bash)                          # in ~/.bashrc
  ssdnorm completion zsh > ~/.zsh/completions/_ssdnorm       # a folder of $fpath, before compinit
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Build the parser of every command, print its completion."""
    import shtab

    from ssdnorm.cli import COMMANDS, CONFIG_KEYS, command_parser, general_parser
    from ssdnorm.cli.checks import PATHS
    from ssdnorm.config import Config
    from ssdnorm.config_file import sections

    inside = sections(Config)
    keys = {
        f"{section}.{name}".lstrip(".") for section in inside for kind in inside[section] for name in kind.model_fields
    }
    parser = general_parser()
    commands = parser.add_subparsers()
    for name, meaning in COMMANDS.items():
        own = command_parser(name)
        for key in sorted(keys - (inside.keys() - {"norm"})) if name in CONFIG_KEYS else ():
            own.add_argument(f"--{CONFIG_KEYS[name]}{key}")
        for action in own.actions:
            if action.type in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        commands.add_parser(name, help=meaning, parents=[own], add_help=False)
    print(shtab.complete(parser, arguments.shell))
