"""This file is about the detector: model, loss and post-processing behind torchvision's calling convention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD
from ssdnorm.structures import Detections, Target


class Detector(nn.Module):
    """Lists of images of any size in; losses in training, detections in evaluation, as torchvision's detectors.

    Brings the model's weights and the images into channels-last memory, in which convolutions and pooling are faster.

    Args:
        model: images → raw output.
        loss: raw output, boxes, labels → parts of the loss; None for a detector that only predicts.
        post_process: raw output, sizes → detections.
        class_names: of the labels 1, 2, …; carried along for those who draw the detections.
        antialias: resize with antialiasing, as this library's data pipeline does; torchvision and most SSDs do not.

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
        antialias: bool = False,
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
        """What the network and the post-processing take.

        Shape:
            images ``(3, H, W)`` each; output ``(B, 3, S, S)`` channels-last, and ``(B, 2)`` height and width in pixels.
        """
        if not images:
            raise ValueError("Detector: expected one image or more; got none")
        batch = torch.stack([self._resize(image, i) for i, image in enumerate(images)])
        sizes = torch.tensor([image.shape[-2:] for image in images]).to(batch.device, non_blocking=True)
        return batch.contiguous(memory_format=torch.channels_last), sizes

    def _resize(self, image: Tensor, index: int) -> Tensor:
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"Detector: image {index}: expected (3, H, W); got {tuple(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"Detector: image {index}: expected uint8 or floats in [0, 1]; got {image.dtype}")
        is_bytes = image.dtype == torch.uint8
        image = image.to(self.model.image_mean.dtype)
        if is_bytes:
            image = image / 255
        size = (self.model.image_size, self.model.image_size)
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=self.antialias)[0]

    def _pad(self, targets: Sequence[Target], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes in [0, 1], ``(B, G, 4)``, and labels ``(B, G)`` with 0 for padding; looks at the device once."""
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
        flat = ~(boxes[..., 2:] > boxes[..., :2]).all(dim=2)  # or no numbers
        wrong = (labels < 1) | (labels >= self.model.num_classes)
        if (real & (flat | wrong)).any():
            i, j = (real & (flat | wrong)).nonzero()[0].tolist()
            if flat[i, j]:
                raise ValueError(f"Detector: image {i}: box {targets[i]['boxes'][j].tolist()} has no area")
            label = int(labels[i, j])
            raise ValueError(f"Detector: image {i}: label {label} is not in 1 … {self.model.num_classes - 1}")
        return boxes, labels
