"""What the metadata of a checkpoint or an exported file may say: allow-listed keys, types and ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import from_json, to_json

from ssdnorm.messages import shown
from ssdnorm.validation import BoxNumber, NormSpec, PostProcessConfig, Section, validate

_Pixels = Annotated[int, Field(ge=1, le=4096)]
_Cells = Annotated[int, Field(ge=1, le=512)]
_Taps = Field(min_length=1, max_length=64)  # one entry per tap
_ClassName = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$")]  # drawn on one line


class BoxNumbers(Section):
    """The fields of ``DefaultBoxSpec``; a pair is (height, width)."""

    image_size: _Pixels | tuple[_Pixels, _Pixels]
    grid_sizes: Annotated[tuple[_Cells | tuple[_Cells, _Cells], ...], _Taps]
    steps: Annotated[tuple[BoxNumber | tuple[BoxNumber, BoxNumber], ...], _Taps]
    min_sizes: Annotated[tuple[BoxNumber, ...], _Taps]
    max_sizes: Annotated[tuple[BoxNumber, ...], _Taps]
    aspect_ratios: Annotated[tuple[Annotated[tuple[BoxNumber, ...], Field(max_length=64)], ...], _Taps]
    clip: Literal["none", "size", "all"] = "none"


class ModelArguments(Section):
    """Name and arguments of the function that builds the model; nothing that opens a file or draws weights."""

    name: Literal["ssd300_vgg16", "ssd512_vgg16", "ssd_vgg16"]
    image_size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    num_classes: int = Field(ge=2, le=1_000_000)
    backbone_norm: NormSpec
    extras_norm: NormSpec
    tap_norms: dict[str, NormSpec]
    dropout: float | dict[str, float]
    default_boxes: str | BoxNumbers
    width: float = Field(gt=0, le=16)

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        if (self.name == "ssd_vgg16") != (self.image_size is not None):
            raise ValueError(
                f"image_size: belongs to ssd_vgg16, which needs one; got {self.image_size} for {self.name}"
            )
        return self


class _Classes(Section):
    class_names: list[_ClassName] = Field(min_length=1)
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None  # by class name

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        if self.thresholds is not None and self.thresholds.keys() != set(self.class_names):
            got = f"{shown(list(self.thresholds))} for {shown(self.class_names)}"
            raise ValueError(f"thresholds: must have the name of every class and no other; got {got}")
        return self


class CheckpointMetadata(_Classes):
    """What a checkpoint says beside its tensors."""

    model: ModelArguments
    post_process: PostProcessConfig = PostProcessConfig()
    antialias: bool = True

    @model_validator(mode="after")
    def _check_number_of_names(self) -> Self:
        if len(self.class_names) != self.model.num_classes - 1:
            got = f"{len(self.class_names)} class names for {self.model.num_classes - 1} classes"
            raise ValueError(f"{got} (background has none)")
        return self


class ExportInput(Section):
    """What an exported graph takes."""

    name: Literal["images"]
    dtype: Literal["uint8", "float32"]
    colours: Literal["RGB"]
    range: list[int]


class ExportMetadata(_Classes):
    """What an exported ONNX file says beside its graph."""

    format: str
    image_size: _Pixels | tuple[_Pixels, _Pixels]
    input: ExportInput
    antialias: bool
    output: Literal["raw", "detections"]
    default_boxes: BoxNumbers
    variances: tuple[BoxNumber, BoxNumber, BoxNumber, BoxNumber]
    post_process: PostProcessConfig


def read_export_metadata(entries: dict[str, str], *, where: str) -> ExportMetadata:
    """The metadata of an exported file; entries of other tools are left out.

    Raises:
        ValueError: of one line, if they are not as written by this library.
    """
    content: dict[str, Any] = {}
    for name in ExportMetadata.model_fields.keys() & entries.keys():
        try:
            content[name] = entries[name] if name in ("format", "output") else from_json(entries[name])
        except ValueError as error:
            raise ValueError(f"{where}: metadata: {name}: not JSON: {error}") from None
    return validate(ExportMetadata, to_json(content, inf_nan_mode="constants").decode(), lambda _: f"{where}: metadata")
