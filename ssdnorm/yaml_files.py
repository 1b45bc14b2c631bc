"""Read YAML that others wrote: safe, bounded in size, and no key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ssdnorm.messages import one_line, shown

_MOST_VALUES = 100_000  # in a file, aliases written out; a list of image ids is the longest thing in a config
_MOST_BYTES = 2**20
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """Read a YAML file; ``ValueError`` if it is damaged, has a key twice, or stands for more than settings can."""
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; no settings are so long")
    return parse_yaml(path.read_bytes(), where=str(path))


def parse_yaml(text: str | bytes, *, where: str) -> Any:
    """The value of a YAML text; errors as of :func:`read_yaml`."""
    try:
        content = yaml.load(text, _Loader)
        _count_values(content, {})
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{where}: not readable as YAML: {one_line(ValueError(error))}") from error
    except RecursionError:
        raise ValueError(f"{where}: not readable as YAML: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of a date or number that is none, or of _count_values
        raise ValueError(f"{where}: {one_line(error)}") from error
    return content


def _count_values(value: Any, counts: dict[int, int]) -> int:
    """The number of values in a tree with its aliases written out.

    Raises:
        ValueError: too many, or a value that contains itself.
    """
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in counts:
        counts[id(value)] = _MOST_VALUES  # until it is known, and for a value that contains itself
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(item, counts) for item in inner)
    if counts[id(value)] > _MOST_VALUES:
        raise ValueError(f"stands for more than {_MOST_VALUES:,} values, its aliases written out")
    return counts[id(value)]


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-3 as a number, and refuses a key given twice and merges that multiply."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._flattened: set[int] = set()  # mappings, by id: each is flattened once, however often it is merged

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put merged mappings (``<<``) in their place, unless they multiply."""
        if id(node) in self._flattened:
            return
        self._flattened.add(id(node))
        for key, value in node.value:
            if key.tag == _MERGE:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                merged = [part for part in merged if isinstance(part, yaml.MappingNode)]
                for part in merged:
                    self.flatten_mapping(part)
                if sum(len(part.value) for part in merged) > _MOST_VALUES:
                    raise ValueError(f"merges more than {_MOST_VALUES:,} values")
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.tag != _MERGE:
                problem = f"the key {shown(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
