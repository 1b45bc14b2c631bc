"""What does L2Norm do to conv4_3 on photographs, and what can go wrong in its formula?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from demonstration import Demonstration, Numbers, Progress, markdown_table, run
from matplotlib.figure import Figure
from torch import Tensor

from ssdnorm.data.images import EncodedImage
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import logarithmic, panels, styled
from ssdnorm.resize import resize_image

LAYERS = ("conv4_3", "conv5_3", "fc7")
_EDGES = np.geomspace(1, 1e4, 81)
_FLOAT16_MAX = torch.finfo(torch.float16).max  # 65504
_COLOURS = {
    "conv4_3": COLORS["orange"],
    "conv5_3": COLORS["green"],
    "fc7": COLORS["ochre"],
    "conv4_3 after L2Norm": COLORS["blue"],
}


def measure_l2norm(*, images: Sequence[Path], weights: str | Path, seed: int = 0, progress: Progress = list) -> Numbers:
    """Length of each position's channel vector in VGG16, image by image, and the formula at its edges.

    fc6 and fc7 are random: the classification weights end with conv5_3. All layers are read after their ReLU.

    Args:
        images: photographs, resized to 300 × 300.
        weights: of VGG16's convolutions.
    """
    model = ssd300_vgg16(21, tap_norms={}, dropout=0, weights=weights, seed=seed).eval()
    backbone = model.features.get_submodule("backbone")
    maps: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for name in LAYERS[:2]:
        hook = lambda _, args, output, name=name: maps[name].append(output.clone())  # noqa: E731
        backbone.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        for path in progress(list(images)):
            image = resize_image(torch.from_numpy(EncodedImage.read(path).decode()).permute(2, 0, 1), 300, 300)
            taps, _ = backbone(model.normalize(image[None]))
            maps["fc7"].append(taps["fc7"])
        conv4_3 = torch.cat(maps["conv4_3"])
        maps["conv4_3 after L2Norm"] = [L2Norm(conv4_3.shape[1])(conv4_3)]
    layers = {name: _lengths(torch.cat(found)) for name, found in maps.items()}
    return {"seed": seed, "images": len(images), "layers": layers, "formula": formula_at_its_edges()}


def _lengths(x: Tensor) -> Numbers:
    lengths = x.double().norm(dim=1).flatten()
    low, middle, high = torch.quantile(lengths, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    return {
        "channels": x.shape[1],
        "positions": lengths.numel(),
        "percentile_5": low,
        "median": middle,
        "percentile_95": high,
        "rms_per_channel": middle / math.sqrt(x.shape[1]),
        "share_all_zero": (lengths == 0).double().mean().item(),
        "share_sum_of_squares_beyond_float16": (lengths.square() > _FLOAT16_MAX).double().mean().item(),
        "share_one_square_beyond_float16": (x.amax(1).square() > _FLOAT16_MAX).double().mean().item(),
        "histogram": np.histogram(lengths.numpy(), _EDGES)[0].tolist(),
    }


def eps_outside_the_root(x: Tensor, eps: float = 1e-10) -> Tensor:
    """The formula of several published SSDs: x over its length plus eps."""
    return x / (x.pow(2).sum(1, keepdim=True).sqrt() + eps)


def formula_at_its_edges() -> Numbers:
    """Outputs and gradients of both formulas at an all-zero position and at large values; text where JSON has none."""
    layer = L2Norm(2, scale=1.0)
    zero, large = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 256.0, dtype=torch.float16)
    half_zero = zero.half()
    return {
        "gradient_at_0": {"eps outside": _gradient(eps_outside_the_root, zero), "L2Norm": _gradient(layer, zero)},
        "gradient_at_0_in_float16": {"L2Norm": _gradient(layer, half_zero)},
        "output_at_0_in_float16": {
            "eps outside": _words(eps_outside_the_root(half_zero)),
            "L2Norm": _words(layer(half_zero)),
        },
        "output_at_256_in_float16": {
            "eps outside": _words(eps_outside_the_root(large)),
            "L2Norm": _words(layer(large)),
        },
        "eps_1e-10_in_float16": repr(torch.tensor(1e-10).half().item()),
        "256_squared_in_float16": repr(torch.tensor(256.0).half().square().item()),
        "largest_rms_of_512_channels_in_float16": math.sqrt(_FLOAT16_MAX / 512),
    }


def _gradient(formula: Callable[[Tensor], Tensor], x: Tensor) -> str:
    x = x.clone().requires_grad_()
    formula(x).sum().backward()
    assert x.grad is not None
    return _words(x.grad)


def _words(x: Tensor) -> str:
    return f"{x.flatten()[0].item():.4g}"


@styled
def draw_l2norm(numbers: Numbers) -> dict[str, Figure]:
    """One figure: lengths by layer."""
    figure, axes = panels(1, 1, height=3.6)
    place = axes[0, 0]
    centres = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    for name, layer in numbers["layers"].items():
        share = np.array(layer["histogram"]) / layer["positions"]
        words = f"{name}, random weights" if name == "fc7" else name
        if name.endswith("L2Norm"):
            words = f"{name}: {layer['median']:.0f}"
            place.axvline(layer["median"], 0, 0.6, color=_COLOURS[name], linewidth=2.5, label=words)
        else:
            place.fill_between(centres, share, step="mid", color=_COLOURS[name], alpha=0.25, linewidth=0)
            place.step(
                centres, share, where="mid", color=_COLOURS[name], label=f"{words}: median {layer['median']:.0f}"
            )
    place.axvline(math.sqrt(_FLOAT16_MAX), 0, 0.92, color=COLORS["ink"], linewidth=1, linestyle=":")
    place.text(math.sqrt(_FLOAT16_MAX) * 1.04, 0.2, "sum of squares\noverflows float16 →", color=COLORS["soft"])
    place.set(
        xlabel="length of a position's channel vector",
        ylabel="share of positions",
        xlim=(4, 1e4),
        ylim=(0, 0.24),
    )
    logarithmic(place, "x")
    place.set_title(f"Lengths in VGG16 on {numbers['images']} photographs")
    place.legend(loc="upper left")
    return {"lengths": figure}


def tables(numbers: Numbers) -> str:
    """Lengths by layer, and both formulas at their edges."""
    keys = ("percentile_5", "median", "percentile_95", "rms_per_channel")
    lengths = [
        [f"{name}, random weights" if name == "fc7" else name, *(float(layer[key]) for key in keys)]
        for name, layer in numbers["layers"].items()
    ]
    conv4_3 = numbers["layers"]["conv4_3"]
    shares = [
        ["whose sum of squares overflows", float(conv4_3["share_sum_of_squares_beyond_float16"])],
        ["where the square of one channel does", conv4_3["share_one_square_beyond_float16"]],
    ]
    edges = {
        "gradient_at_0": "an all-zero position, float32: gradient",
        "output_at_0_in_float16": "an all-zero position, float16: output",
        "output_at_256_in_float16": "256 in each of two channels, float16: output",
    }
    rows = [
        [words, *(numbers["formula"][key][name] for name in ("eps outside", "L2Norm"))] for key, words in edges.items()
    ]
    return "\n\n".join(
        [
            markdown_table(
                ["layer", "length: 5 %", "median", "95 %", "root mean square per channel"], lengths, digits=1
            ),
            markdown_table(
                ["share of conv4_3's positions, in float16", ""], [[w, float(x)] for w, x in shares], digits=2
            ),
            markdown_table(["at", "eps outside the root", "`L2Norm`"], rows),
        ]
    )


DEMONSTRATION = Demonstration("l2norm", __doc__, measure_l2norm, draw_l2norm, tables, on_photographs=True)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
