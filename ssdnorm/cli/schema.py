"""Write the JSON schemas of config files, for editors.

example:
  ssdnorm schema --output configs

An editor checks a file that begins with `# yaml-language-server: $schema=schema.json` and completes its keys.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from ssdnorm.cli.checks import output_folder
from ssdnorm.config import Config, NormConfig
from ssdnorm.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        required=True,
        type=output_folder,
        help="folder for schema.json (recipes), compare_schema.json and norms/schema.json",
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Write one file per kind of config."""
    for name, schema in schemas().items():
        path = arguments.output / name
        write_text(path, json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {path}")


def schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON schema."""
    from ssdnorm.compare.plan import Comparison

    models: dict[str, type[BaseModel]] = {
        "schema.json": Config,
        "compare_schema.json": Comparison,
        "norms/schema.json": NormConfig,
    }
    return {name: model.model_json_schema() for name, model in models.items()}
