"""Join model, loss and post-processing behind torchvision's calling convention; load detectors from checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ssdnorm.boxes.default_boxes import default_box_spec
from ssdnorm.layers import fold_batch_norm
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.messages import shown
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign import read_any_checkpoint
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD, ssd300_vgg16, ssd512_vgg16, ssd_vgg16
from ssdnorm.models.tensor_files import check_shapes, shapes_of
from ssdnorm.resize import height_and_width, resize_image
from ssdnorm.structures import Detections, Target

MODELS: dict[str, Callable[..., SSD]] = {
    "ssd300_vgg16": ssd300_vgg16,
    "ssd512_vgg16": ssd512_vgg16,
    "ssd_vgg16": ssd_vgg16,
}


class Detector(nn.Module):
    """Take lists of images of any size; return losses in training and detections in evaluation, as in torchvision.

    The model's weights and the images are held in channels-last memory, in which convolutions and pooling are faster.

    Args:
        model: images → raw output.
        loss: raw output, boxes, labels → parts of the loss; None for a detector that only predicts.
        post_process: raw output, sizes → detections.
        class_names: of the labels 1, 2, …
        antialias: resize with antialiasing, as the images were that networks of this library are trained on; those of
            torchvision and most other SSDs were not.
        thresholds: the score to ask for by class name, as found by an evaluation; not applied here.

    Example:
        >>> from ssdnorm import MultiboxLoss, PostProcess, ssd300_vgg16
        >>> model = ssd300_vgg16(21, width=0.1)
        >>> detector = Detector(model, MultiboxLoss(model.default_boxes), PostProcess(model.default_boxes)).eval()
        >>> detections = detector([torch.rand(3, 240, 320), torch.rand(3, 50, 40)])
        >>> sorted(detections[0])
        ['boxes', 'labels', 'scores']
    """

    def __init__(
        self,
        model: SSD,
        loss: nn.Module | None,
        post_process: PostProcess,
        *,
        class_names: Sequence[str] | None = None,
        antialias: bool = True,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if class_names is not None and len(class_names) != model.num_classes - 1:
            raise ValueError(
                f"Detector: {len(class_names)} class names for {model.num_classes - 1} classes (background has none)"
            )
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.post_process = post_process
        self.antialias = antialias
        self.thresholds = thresholds
        self.class_names = tuple(class_names or (f"class {i}" for i in range(1, model.num_classes)))

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: uint8 or floats in [0, 1], each ``(3, H, W)`` of its own size.
            targets: needed in training; boxes ``(G, 4)`` xyxy in pixels of their image, labels ``(G,)`` from 1.

        Raises:
            ValueError: if targets are missing in training, or a box has no area, or a label is out of range.
        """
        if not self.training:
            batch, sizes = self.prepare(images)
            return self.post_process(self.model(batch), sizes)
        if self.loss is None:
            raise ValueError("Detector: made without a loss, it can only predict; call .eval()")
        if targets is None or len(targets) != len(images):
            got = "none" if targets is None else str(len(targets))
            raise ValueError(f"Detector: training takes one target per image; got {len(images)} images, targets: {got}")
        batch, sizes = self.prepare(images)
        boxes, labels = self._pad(targets, sizes)
        return self.loss(self.model(batch), boxes, labels)

    def prepare(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Resize images to the network's input.

        Shape:
            images ``(3, H, W)`` each; output ``(B, 3, height, width)`` channels-last, uint8 if all images are (and
            antialiasing is on), else floats in [0, 1]; and ``(B, 2)``, height and width of the images in pixels.
        """
        if not images:
            raise ValueError("Detector: expected one image or more; got none")
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"Detector: image {i}: expected (3, H, W); got {tuple(image.shape)}")
            if image.dtype != torch.uint8 and not image.is_floating_point():
                raise ValueError(f"Detector: image {i}: expected uint8 or floats in [0, 1]; got {image.dtype}")
        height, width = height_and_width(self.model.image_size)
        resized = [resize_image(image, height, width, antialias=self.antialias) for image in images]
        if any(image.is_floating_point() for image in resized):
            dtype = self.model.image_mean.dtype
            resized = [x.to(dtype) if x.is_floating_point() else x.to(dtype) / 255 for x in resized]
        batch = torch.stack(resized)
        sizes = torch.tensor([image.shape[-2:] for image in images]).to(batch.device, non_blocking=True)
        return batch.contiguous(memory_format=torch.channels_last), sizes

    def _pad(self, targets: Sequence[Target], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes in [0, 1], ``(B, G, 4)``, and labels ``(B, G)`` with 0 for padding; reads the device once."""
        longest = max(len(target["labels"]) for target in targets)
        boxes = torch.zeros((len(targets), longest, 4), dtype=torch.float32, device=sizes.device)
        labels = torch.zeros((len(targets), longest), dtype=torch.int64, device=sizes.device)
        real = torch.zeros_like(labels, dtype=torch.bool)
        for i, target in enumerate(targets):
            n = len(target["labels"])
            if target["boxes"].shape != (n, 4) and target["boxes"].numel() + n > 0:
                raise ValueError(
                    f"Detector: image {i}: expected boxes (G, 4) and labels (G,); got {tuple(target['boxes'].shape)} "
                    f"and {tuple(target['labels'].shape)}"
                )
            boxes[i, :n] = target["boxes"].reshape(-1, 4)
            labels[i, :n] = target["labels"]
            real[i, :n] = True
        boxes /= sizes.flip(1).repeat(1, 2)[:, None]
        flat = ~(boxes[..., 2:] > boxes[..., :2]).all(dim=2)  # or NaN
        wrong = (labels < 1) | (labels >= self.model.num_classes)
        if (real & (flat | wrong)).any():
            i, j = (real & (flat | wrong)).nonzero()[0].tolist()
            if flat[i, j]:
                raise ValueError(f"Detector: image {i}: box {targets[i]['boxes'][j].tolist()} has no area")
            label = int(labels[i, j])
            raise ValueError(f"Detector: image {i}: label {label} is not in 1 … {self.model.num_classes - 1}")
        return boxes, labels


def load_detector(path: str | Path, *, fold: bool = False, custom_norms: Collection[str] = ()) -> Detector:
    """Load a detector from a checkpoint, in evaluation mode, with loss and post-processing.

    Args:
        path: ``checkpoints/model.safetensors`` of a run, a converted file, or a file of another system, which is
            recognised by its keys: torchvision, amdegroot, lufficc, mmdetection 3, balancap, chainercv.
        fold: fold batch norms into the convolutions before them; for inference only: faster, the same up to 1e-4.
        custom_norms: custom norms, ``"package.module:Class"``, that the file may name. Their module
            is imported and their code runs; a file that names any other is refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of a known system, damaged, a pickle that runs code, or names a class that
            ``custom_norms`` does not.
    """
    checkpoint = read_any_checkpoint(Path(path))
    detector = make_detector(checkpoint, where=str(path), custom_norms=custom_norms)
    if fold:
        detector = cast(Detector, fold_batch_norm(detector))
        detector.model.arguments = None  # they would build the norms again; it cannot be saved as a checkpoint
    return detector


def make_detector(checkpoint: Checkpoint, *, where: str = "checkpoint", custom_norms: Collection[str] = ()) -> Detector:
    """Build the detector that a checkpoint holds, in evaluation mode; ``custom_norms`` as for :func:`load_detector`."""
    allowed = {custom_norms} if isinstance(custom_norms, str) else set(custom_norms)
    if unknown := sorted(checkpoint.custom_norms - allowed):
        raise ValueError(
            f"{where}: names the norm {shown(unknown[0])}, whose code would run. If you trust that class, allow it: "
            f"load_detector(…, custom_norms={{{unknown[0]!r}}}), or --allow-norm {unknown[0]}"
        )
    arguments = dict(checkpoint.model)
    build = MODELS[arguments.pop("name")]
    try:
        arguments["default_boxes"] = default_box_spec(arguments["default_boxes"])
        with torch.device("meta"):  # before memory is taken
            expected = shapes_of(build(**arguments).state_dict())
        check_shapes(expected, shapes_of(checkpoint.state), where="tensors")
        model = build(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    model.load_state_dict(dict(checkpoint.state))
    return Detector(
        model,
        MultiboxLoss(model.default_boxes),
        PostProcess(model.default_boxes, **checkpoint.post_process),
        class_names=checkpoint.class_names,
        antialias=checkpoint.antialias,
        thresholds=checkpoint.thresholds,
    ).eval()


def compile_for_inference(model: nn.Module, images: Tensor) -> None:
    """Compile a network in place with its weights frozen, which on a CPU is where ``torch.compile`` gains.

    Compiles at once, for images of this shape, in inference mode; this takes up to two minutes. Other shapes are
    compiled when they first occur, without freezing. Later changes of the weights have no effect.

    Args:
        model: in evaluation mode, on the device of the images.

    Shape:
        images as the model takes them, in the data type and memory format of later calls.

    Raises:
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("compile_for_inference: the model is in training mode; call .eval()")
    import torch._inductor.config as config  # slow to import

    model.compile(dynamic=False)
    with torch.inference_mode(), config.patch(freezing=True):
        model(images.clone())  # an inference tensor: code compiled for others would not serve it
