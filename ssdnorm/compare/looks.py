"""Looks at a growing number of seeds: the level of each, and what was declared before the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from ssdnorm.compare.plan import Comparison
from ssdnorm.compare.rules import ALPHA
from ssdnorm.compare.run_folders import read_report

# what is declared before results are known; reports without the key were made with this
_DECLARED: dict[str, Any] = {"metric": None, "baseline": None, "rule": "paired_t_holm", "margin": None, "contrasts": {}}


def spent_alpha(looks: Sequence[int], alpha: float = ALPHA) -> list[float]:
    r"""The level of each look at a growing number of seeds, so that all looks together make few false claims.

    Lan and DeMets' spending function of O'Brien and Fleming's kind gives
    :math:`2 - 2 \Phi(z_{\alpha/2} / \sqrt t)` until the share :math:`t` of the seeds; a look gets what was added since
    the last. The levels add up to alpha, which bounds the error whatever the correlation of the looks.

    Args:
        looks: rising numbers of seeds, declared before the first run.

    Sources:
        K. Lan, D. DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983.

    Example:
        >>> [round(level, 4) for level in spent_alpha([3, 5, 8])]
        [0.0014, 0.0118, 0.0368]
    """
    z = stats.norm.isf(alpha / 2)
    spent = [2 * float(stats.norm.sf(z / math.sqrt(look / looks[-1]))) for look in looks]
    return [now - before for now, before in zip(spent, [0.0, *spent[:-1]], strict=True)]


def level_of(file: Comparison) -> float:
    """The family-wise level at which the comparison's number of seeds is tested."""
    return spent_alpha(file.looks)[file.looks.index(len(file.seeds))] if file.looks else ALPHA


def second_look(file: Comparison, root: Path) -> str:
    """Which keys were declared after verdicts were known, from an earlier ``results.json``; empty if none were.

    Raises:
        ValueError: if seeds were added without declared looks, were taken away, or the looks were changed.
    """
    path = root / "results.json"
    if not path.is_file():
        return ""
    earlier = read_report(path)
    earlier["contrasts"] = earlier["config"].get("contrasts", {})
    if all(arm["verdict"] in ("baseline", "incomplete", "one seed") for arm in earlier["arms"]):
        return ""
    before, looks = earlier["seeds"], earlier.get("looks")
    if lost := sorted(set(before) - set(file.seeds)):
        raise ValueError(f"seeds: {path} reports on seeds {lost}, too; seeds can be added, not taken away")
    if len(file.seeds) > len(before) and looks is None:
        raise ValueError(
            f"seeds: {path} reports on {len(before)} seeds and declared no looks; adding seeds until a difference "
            f"appears is not evidence. Declare looks before the first run, or compare new seeds in another --output"
        )
    if file.looks != looks:
        raise ValueError(f"looks: declared before the results in {path}: {looks}; got {file.looks}")
    keys = [key for key, old in _DECLARED.items() if getattr(file, key) != earlier.get(key, old)]
    return ", ".join(keys) or str(earlier.get("second_look", ""))
