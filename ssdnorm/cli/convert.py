"""Convert a checkpoint of another SSD, select classes, or write a file for torchvision.

examples:
  ssdnorm convert ssd300_mAP_77.43_v2.pth --output ssd300.safetensors
  ssdnorm convert ssd300.safetensors --output cats.safetensors --classes cat,dog
  ssdnorm convert model.safetensors --to torchvision --output ours.pth

The system is recognised by the names in the file: torchvision, amdegroot/ssd.pytorch, lufficc/SSD, mmdetection 3,
balancap/SSD-Tensorflow (model.ckpt or .npz), chainercv (.npz), and this library's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdnorm.cli.checks import output_file

if TYPE_CHECKING:
    from ssdnorm.models.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="IN", help="the file; of a TensorFlow checkpoint its prefix")
    parser.add_argument(
        "--output", required=True, type=output_file, help="OUT.safetensors, or OUT.pth with --to torchvision"
    )
    parser.add_argument("--to", choices=("ssdnorm", "torchvision"), default="ssdnorm", help="the format to write")
    parser.add_argument(
        "--classes", help="keep these classes only: voc, coco, or comma-separated names in VOC's or COCO's spelling"
    )
    parser.add_argument("--class-names", help="comma-separated names of the file's classes, without background")
    parser.add_argument(
        "--default-boxes",
        metavar="NAME",
        help="ssd300_voc, ssd300_coco, ssd512_voc, ssd512_coco; if not its system's default",
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Read, convert, select classes, write, and print a summary."""
    suffix = ".safetensors" if arguments.to == "ssdnorm" else ".pth"
    if arguments.output.suffix != suffix:
        raise ValueError(f"--output: {arguments.to} files end in {suffix}; got {arguments.output}")

    # imported here, so that --help does not wait for them
    import io

    import torch

    from ssdnorm.files import write_bytes
    from ssdnorm.models.checkpoint import write_checkpoint
    from ssdnorm.models.class_names import VOC_CLASSES, coco_classes, select_classes
    from ssdnorm.models.foreign import read_any_checkpoint
    from ssdnorm.models.foreign.torchvision import to_torchvision

    names = None if arguments.class_names is None else _names("--class-names", arguments.class_names)
    checkpoint = read_any_checkpoint(arguments.input, default_boxes=arguments.default_boxes, class_names=names)
    if arguments.classes is not None:
        known = {"voc": VOC_CLASSES, "coco": coco_classes()}
        chosen = known.get(arguments.classes) or _names("--classes", arguments.classes)
        checkpoint = select_classes(checkpoint, chosen)
    if arguments.to == "torchvision":
        state, notes = to_torchvision(checkpoint)
        memory = io.BytesIO()
        torch.save(state, memory)
        write_bytes(arguments.output, memory.getbuffer())
        num_classes = len(checkpoint.class_names) + 1
        print(f"written: {arguments.output}: ssd300_vgg16(num_classes={num_classes}) of torchvision")
        for note in notes:
            print(f"set in torchvision: {note}")
        return
    write_checkpoint(arguments.output, checkpoint)
    print(_summary(checkpoint))
    print(f"written: {arguments.output}")


def _names(option: str, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{option}: comma-separated names are needed; got {value!r}")
    return names


def _summary(checkpoint: Checkpoint) -> str:
    from ssdnorm.boxes.default_boxes import default_box_spec

    spec = default_box_spec(checkpoint.model["default_boxes"])
    mean = [round(255 * v, 3) for v in checkpoint.state["image_mean"].tolist()]
    std = [round(255 * v, 3) for v in checkpoint.state["image_std"].tolist()]
    names = list(checkpoint.class_names)
    listed = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return "\n".join(
        (
            f"model:          {checkpoint.model['name']}, {len(names)} classes and background: {listed}",
            f"input:          RGB 0 … 255 minus {mean}, over {std}",
            f"default boxes:  {spec.num_boxes}, sizes {[*spec.min_sizes, spec.max_sizes[-1]]}, clipped: {spec.clip}",
            f"post-process:   {', '.join(f'{key} {value}' for key, value in checkpoint.post_process.items())}",
        )
    )
