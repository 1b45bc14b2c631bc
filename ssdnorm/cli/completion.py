"""Print a script that completes commands, options and config keys: ssdnorm completion bash

examples:
  source <(ssdnorm completion bash)                          # in ~/.bashrc
  ssdnorm completion zsh > ~/.zsh/completions/_ssdnorm       # a folder of $fpath, before compinit
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Build the parser of every command, print its completion."""
    import shtab

    from ssdnorm.cli import _MODULES, CONFIG_KEYS, commands_of, make_parser
    from ssdnorm.config import Config
    from ssdnorm.config_file import sections

    parser = make_parser({name: import_module(module) for name, module in _MODULES.items()})
    inside = sections(Config)
    keys = {
        f"{section}.{name}".lstrip(".")
        for section, kinds in inside.items()
        for kind in kinds
        for name in kind.model_fields
    }
    choice = commands_of(parser)
    choice.help = None  # shtab leaves out what --help does
    for name, prefix in CONFIG_KEYS.items():
        for key in sorted(keys - (inside.keys() - {"norm"})):
            choice.choices[name].add_argument(f"--{prefix}{key}")
    for command in choice.choices.values():
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE
    print(shtab.complete(parser, arguments.shell))
