"""Record where a result comes from: versions, commit and threads."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Versions of the packages that results depend on, the commit, and the number of threads."""
    import torch  # slow to import, and loaded already where there is a result

    from ssdnorm import __version__

    versions = {"ssdnorm": __version__, "torch": torch.__version__}
    versions |= {name: version(name) for name in ("torchvision", "pytorch_lightning")}
    return {"versions": versions, "commit": git_commit(), "threads": torch.get_num_threads()}


def git_commit() -> str | None:
    """The commit of the package's git repository, ``-dirty`` where files differ; None outside a repository."""
    found = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return None if found is None else found.strip()


def git_diff() -> str:
    """What differs from the commit in tracked files, as a patch; empty outside a repository."""
    return _git("diff", "HEAD") or ""


def _git(*words: str) -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
