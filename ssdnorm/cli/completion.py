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

from ssdnorm.cli.checks import check_no_extra_arguments

_KEYS_OF = dict.fromkeys(("inspect", "init", "train", "evaluate", "diagnose"), "") | {
    "compare": "base."
}  # -> their prefix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Build the parser of every command, print its completion."""
    import shtab

    from ssdnorm.cli import _MODULES, make_parser, options_of
    from ssdnorm.config import Config
    from ssdnorm.config_file import sections

    check_no_extra_arguments(rest)
    parser = make_parser({name: import_module(module) for name, module in _MODULES.items()})
    inside = sections(Config)
    keys = {
        f"{section}.{name}".lstrip(".")
        for section, kinds in inside.items()
        for kind in kinds
        for name in kind.model_fields
    }
    (choice,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    choice.help = None  # shtab leaves out what --help does
    for name, prefix in _KEYS_OF.items():
        for key in sorted(keys - (inside.keys() - {"norm"})):
            choice.choices[name].add_argument(f"--{prefix}{key}")
    for name in _MODULES:
        for action in options_of(parser, name):
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
