"""What one training is: its keys, their types, ranges, defaults and meanings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ssdnorm.norm_specs import custom_norms
from ssdnorm.validation import BoxNumber, LoggerSpec, NormSpec, PostProcessConfig, Section

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class NormConfig(Section):
    """Which norm goes where; a norm is a name, or a mapping such as ``{kind: group_norm, groups: 16}``."""

    backbone: NormSpec = Field(default="none", description="after every convolution of the backbone")
    extras: NormSpec = Field(default="none", description="after every convolution of the extra layers")
    taps: dict[str, NormSpec] = Field(default={"conv4_3": "l2_norm"}, description="by tap, before the head")

    @property
    def custom_norms(self) -> set[str]:
        """Norms of a custom class, ``"package.module:Class"``."""
        return custom_norms(self.backbone, self.extras, *self.taps.values())


class DefaultBoxesConfig(Section):
    """Default boxes for the network's own taps: conv4_3, fc7, conv8_2, …"""

    sizes: list[BoxNumber] | None = Field(
        default=None, description="pixels of the input, one per tap and one more, rising; null spreads them"
    )
    aspect_ratios: list[Annotated[list[BoxNumber], Field(max_length=64)]] | None = Field(
        default=None, description="width / height, a list per tap; each brings its reciprocal; null: the paper's"
    )
    steps: list[BoxNumber | list[BoxNumber]] | None = Field(
        default=None, description="between cells, pixels, one per tap, or [down, across]; null: the taps' strides"
    )


_Side = Annotated[int, Field(ge=32, le=4096)]
_IMAGE_SIZES = {"ssd300_vgg16": 300, "ssd512_vgg16": 512}


class ModelConfig(Section):
    """The network."""

    name: Literal["ssd300_vgg16", "ssd512_vgg16", "ssd_vgg16"] = Field(
        default="ssd300_vgg16", description="which SSD; ssd_vgg16 is for any image_size"
    )
    image_size: _Side | list[_Side] | None = Field(
        default=None, description="of the input, pixels: a side, or [height, width]; null: the name's"
    )
    width: float = Field(default=1.0, gt=0, le=16, description="factor on every channel count")
    dropout: float | dict[str, float] = Field(
        default=0.5,
        description="probability of a zero after fc6 and fc7, or by layer name (others have none); the paper has 0",
    )
    default_boxes: str | DefaultBoxesConfig | None = Field(
        default=None,
        description="a name, or sizes, aspect_ratios, steps; null: the checkpoint's, VOC's, or spread over the image",
    )
    weights: str | None = Field(default=None, description="backbone's: a torchvision name or a file; null draws them")
    checkpoint: str | None = Field(
        default=None,
        description="a whole SSD to fine-tune, of this library or another system; norms that it lacks start anew",
    )
    head: Literal["keep", "extend", "fresh"] = Field(
        default="keep",
        description="class outputs of the checkpoint: keep needs its classes, extend adds the data's, fresh draws them",
    )
    freeze: list[str] = Field(
        default=[], description="layers or stages that keep the weights they start from, such as [conv1, conv2]"
    )
    compile: bool = Field(default=False, description="run the network through torch.compile")

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        own = _IMAGE_SIZES.get(self.name)
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError(f"image_size: expected a side, or [height, width]; got {self.image_size}")
        if own is None and self.image_size is None:
            raise ValueError("image_size: ssd_vgg16 takes any size; choose one, such as 300 or [384, 640]")
        if own is not None and self.image_size not in (None, own, [own, own]):
            raise ValueError(
                f"image_size: {self.name} takes {own}; got {self.image_size}. For other sizes set model.name to "
                "ssd_vgg16 and model.default_boxes to null, or to sizes of your own"
            )
        return self

    @property
    def input_size(self) -> int | list[int]:
        """Image size, of the name where none is given."""
        return self.image_size or _IMAGE_SIZES[self.name]

    @model_validator(mode="after")
    def _check_checkpoint(self) -> Self:
        if self.checkpoint is not None and self.weights is not None:
            raise ValueError("a checkpoint contains its backbone; set one of checkpoint and weights to null")
        if self.checkpoint is None and self.head != "keep":
            raise ValueError(f"head: {self.head} changes the head of a checkpoint, which is null")
        if self.freeze and self.weights is None and self.checkpoint is None:
            raise ValueError("freeze: layers without weights or a checkpoint would stay as they are drawn")
        return self


Only = list[int] | list[str] | str | None


class VocSource(Section):
    """Images and boxes of a VOC folder: Annotations, JPEGImages, ImageSets/Main."""

    format: Literal["voc"] = Field(description="voc where it is left out")
    root: str | list[str] = Field(description="voc: folder of a VOC year, or several")
    split: str | list[str] = Field(description="voc: name of the image list, one per root; yolo: train, val or test")
    only: Only = Field(
        default=None,
        description="file stems (voc, yolo; folder/stem where stems are equal) or image ids (coco), or a text file of "
        "them, one per line; null takes all",
    )


class CocoSource(Section):
    """Images and boxes of a COCO instances file."""

    format: Literal["coco"]
    annotations: str = Field(description="coco: instances file")
    images: str = Field(description="coco: folder of its images")
    only: Only = Field(default=None, description="image ids to take, or a text file of them; null takes all")


class YoloSource(Section):
    """Images and boxes in YOLO format: data.yaml, and a text file per image."""

    format: Literal["yolo"]
    root: str = Field(description="yolo: data.yaml, or its folder")
    split: Literal["train", "val", "test"] = Field(description="yolo: which images of data.yaml")
    only: Only = Field(default=None, description="file stems to take, or a text file of them; null takes all")


class ShapesSource(Section):
    """Coloured shapes, drawn when they are read."""

    format: Literal["shapes"]
    num_images: Annotated[int, Field(gt=0, le=10**7)] = Field(description="shapes: how many pictures are drawn")
    seed: Seed = Field(description="shapes: seed of the drawn pictures")
    image_size: Annotated[int, Field(ge=16, le=4096)] = Field(
        default=300, description="shapes: side of a picture, pixels"
    )
    max_objects: Annotated[int, Field(gt=0, le=1000)] = Field(
        default=6, description="shapes: most objects in a picture"
    )
    min_side: PositiveFraction = Field(default=0.1, description="shapes: smallest diameter, of the picture's side")
    max_side: PositiveFraction = Field(default=0.5, description="shapes: largest diameter, of the picture's side")
    class_colors: bool = Field(default=False, description="shapes: each class has a hue of its own")


_SOURCES = (VocSource, CocoSource, YoloSource, ShapesSource)
SOURCE_KEYS = {key for source in _SOURCES for key in source.model_fields} - {"format"}


def _fill_format(source: Any) -> Any:
    """VOC where no format is given; a null is the same as a key that is left out."""
    if not isinstance(source, Mapping):
        return source
    return {"format": "voc"} | {
        key: value for key, value in source.items() if value is not None or key not in SOURCE_KEYS
    }


Source = Annotated[
    Annotated[VocSource | CocoSource | YoloSource | ShapesSource, Field(discriminator="format")],
    BeforeValidator(_fill_format),
]


class DataConfig(Section):
    """What is trained and evaluated on."""

    class_names: list[str] | None = Field(default=None, description="of the labels 1, 2, …; null takes the data's")
    train: Source = Field(description="images to train on")
    validation: Source | None = Field(default=None, description="evaluated during training; null takes the test images")
    test: Source = Field(description="images to evaluate on at the end")
    train_on_difficult: bool = Field(default=True, description="VOC's difficult objects; evaluation ignores them")
    on_bad_annotation: Literal["drop", "error"] = Field(default="drop", description="drop warns; error stops")


class AugmentConfig(Section):
    """The steps of SSD's augmentation; each can be switched off."""

    photometric: bool = Field(default=True, description="brightness, contrast, saturation and hue")
    zoom_out: bool = Field(default=True, description="place the image on a larger canvas")
    iou_crop: bool = Field(default=True, description="crop with a minimum IoU to an object")
    flip: bool = Field(default=True, description="mirror left to right")
    channel_swap: bool = Field(default=False, description="permute the colour channels")


class FocalConfig(Section):
    """Focal loss."""

    gamma: NonNegativeFloat = Field(default=2.0, description="power by which well classified boxes count less")
    alpha: Fraction = Field(default=0.25, description="weight of matched boxes; background has 1 − alpha")


class LossConfig(Section):
    """Matching, and which boxes count how much."""

    iou_threshold: PositiveFraction = Field(default=0.5, description="smallest IoU at which a default box is matched")
    negative_ratio: NonNegativeFloat = Field(default=3.0, description="mined background boxes per matched box")
    focal: FocalConfig | None = Field(
        default=None, description="focal loss over all boxes instead of hard negative mining; null for none"
    )
    class_weights: dict[str, NonNegativeFloat] | None = Field(
        default=None, description="factor on the classification loss by class name, also background; others have 1"
    )

    @model_validator(mode="after")
    def _check_mining(self) -> Self:
        if self.focal is not None and self.negative_ratio != type(self).model_fields["negative_ratio"].default:
            raise ValueError("negative_ratio: focal takes all boxes and mines none; leave one of the two out")
        return self


class NormParametersConfig(Section):
    """How the parameters of norms depart from the rest."""

    lr_factor: NonNegativeFloat = Field(default=1.0, description="on the learning rate")
    weight_decay: NonNegativeFloat = Field(default=5e-4, description="instead of the general one")


class BiasesConfig(Section):
    """How the biases of convolutions depart from the rest."""

    lr_factor: NonNegativeFloat = Field(default=2.0, description="on the learning rate")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="instead of the general one")


class OptimizerConfig(Section):
    """The optimizer and its schedule, in steps or in shares of the run."""

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="adamw takes rates of a tenth and less of SGD's")
    lr: PositiveFloat = Field(default=1e-3, description="learning rate after the warm-up")
    momentum: Fraction = Field(default=0.9, description="of SGD; AdamW's first beta")
    weight_decay: NonNegativeFloat = Field(default=5e-4, description="of all but norms and biases")
    norms: NormParametersConfig = Field(
        default=NormParametersConfig(), description="parameters of norms, L2Norm's scales included"
    )
    biases: BiasesConfig = Field(default=BiasesConfig(), description="biases of convolutions")
    warmup_steps: NonNegativeInt | Share = Field(
        default=500, description="linear rise from warmup_factor · lr: steps, or a share of the run such as 0.05"
    )
    warmup_factor: PositiveFraction = Field(default=0.1, description="where the rise starts")
    schedule: Literal["drops", "cosine"] = Field(
        default="drops", description="after the warm-up: lr_drops, or half a cosine down to 0 at the end"
    )
    lr_drops: list[int] | list[float] = Field(
        default=[],
        description="where the rate is multiplied by lr_drop_factor: steps, or shares of the run such as [0.7, 0.9]",
    )
    lr_drop_factor: PositiveFloat = Field(default=0.1, description="see lr_drops")

    @field_validator("lr_drops")
    @classmethod
    def _check_rising(cls, drops: list[int] | list[float]) -> list[int] | list[float]:
        shares = any(isinstance(drop, float) for drop in drops)
        if sorted(set(drops)) != drops or any(drop <= 0 or (shares and drop >= 1) for drop in drops):
            raise ValueError(f"must be rising steps above 0, or rising shares between 0 and 1; got {drops}")
        return drops

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule == "cosine" and self.lr_drops:
            raise ValueError(f"lr_drops: schedule cosine has none; set them to []; got {self.lr_drops}")
        return self


class TrainingConfig(Section):
    """The loop."""

    max_steps: PositiveInt | None = Field(default=120_000, description="optimizer steps; null where epochs are given")
    epochs: PositiveFloat | None = Field(
        default=None, description="passes over the training images, instead of max_steps"
    )
    batch_size: Annotated[int, Field(gt=0, le=2**16)] | Literal["auto"] = Field(
        default=32, description="images per device and step; auto takes the largest power of 2 that fits, up to 32"
    )
    accumulate: PositiveInt = Field(
        default=1, description="batches whose gradients make one step; batch norms see one batch at a time"
    )
    seed: Seed = Field(default=0, description="of initial weights, order, augmentation and dropout")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = Field(
        default="32-true", description="of the forward pass; auto measures whether bf16-mixed is faster here"
    )
    ema_decay: Fraction | None = Field(default=None, description="of the evaluated average; null for none")
    clip_grad_norm: PositiveFloat | None = Field(default=None, description="largest gradient norm; null for none")
    eval_every: PositiveInt | Share | None = Field(
        default=None, description="between evaluations: steps, or a share of the run; null: the end only"
    )
    best: Literal["AP", "AP50", "AP75", "VOC07", "VOC", "loss"] | None = Field(
        default=None, description="number on the validation images by which best.safetensors is kept; null for none"
    )
    patience: PositiveInt | None = Field(
        default=None, description="evaluations without a better one after which training stops; null: never"
    )
    checkpoint_every: PositiveInt = Field(default=1000, description="steps between checkpoints for --resume")
    population_images: PositiveInt | None = Field(
        default=None,
        description="training images for batch norm's population statistics, evaluated at the end; null for none",
    )

    @property
    def num_steps(self) -> int:
        """``max_steps`` of a settled config."""
        assert self.max_steps is not None, "epochs are not in steps yet"
        return self.max_steps

    @property
    def batch_images(self) -> int:
        """``batch_size`` of a settled config."""
        assert self.batch_size != "auto", "the batch size is not chosen yet"
        return self.batch_size

    @property
    def num_images(self) -> int:
        """Images that a device takes in all steps of a settled config."""
        return self.num_steps * self.accumulate * self.batch_images

    @model_validator(mode="before")
    @classmethod
    def _epochs_stand_for_the_default(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content.get("epochs") is not None and "max_steps" not in content:
            return {**content, "max_steps": None}
        return content

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.max_steps is None) == (self.epochs is None):
            got = f"max_steps {self.max_steps}, epochs {self.epochs}"
            raise ValueError(f"give one of max_steps and epochs, the other is null; got {got}")
        if self.patience is not None and self.best is None:
            raise ValueError("patience: waits for a better number, which best names; it is null")
        if self.best is not None and self.eval_every is None:
            raise ValueError("best: chooses among the evaluations during training; eval_every is null")
        return self


class RuntimeConfig(Section):
    """How it is run. Does not affect results beyond rounding, except batch_may_change; may change on --resume."""

    devices: Annotated[int, Field(gt=0, le=1024)] | Literal["auto"] = Field(
        default="auto", description="per machine; each takes a batch"
    )
    accelerator: str = Field(default="auto", description="auto, cpu, gpu, …")
    num_nodes: Annotated[int, Field(gt=0, le=10_000)] = Field(default=1, description="machines")
    timeout: PositiveInt = Field(
        default=600, description="seconds to wait for the processes on other devices, at the start and later"
    )
    batch_may_change: bool = Field(
        default=False, description="let --resume go on with another number of devices, each with batch_size images"
    )
    num_workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="processes that load images; 0 uses the main process"
    )
    cache_images: PositiveInt | None = Field(
        default=None,
        description="MiB of shared memory for decoded training images; null reads the files each time",
    )
    loggers: list[LoggerSpec] = Field(
        default=["tensorboard"],
        description="beside metrics.csv: tensorboard, csv, wandb, mlflow, package.module:Class, or {kind: …, options}",
    )
    log_every: PositiveInt = Field(default=20, description="steps between entries of the logs")
    diagnose_every: PositiveInt | None = Field(
        default=None, description="steps between rows of diagnostics.csv; null for none"
    )

    @field_validator("loggers")
    @classmethod
    def _check_different(cls, loggers: list[Any]) -> list[Any]:
        if again := [spec for place, spec in enumerate(loggers) if spec in loggers[:place]]:
            raise ValueError(f"must be different; got twice {again[0]}")
        return loggers


class Config(Section):
    """One training, complete."""

    norm: NormConfig = Field(
        default=NormConfig(),
        description="or the name of a preset, such as batch_norm",
        json_schema_extra=lambda schema: schema.update(anyOf=[{"$ref": schema.pop("$ref")}, {"type": "string"}]),
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    post_process: PostProcessConfig = PostProcessConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def with_values(self, section: str, **values: object) -> Self:
        """The config with some keys of a section replaced; the values are not checked."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    @model_validator(mode="after")
    def _check_drops(self) -> Self:
        drops, max_steps = self.optimizer.lr_drops, self.training.max_steps
        if max_steps is not None and any(step >= max_steps for step in drops):
            raise ValueError(f"optimizer.lr_drops: {drops} reaches past training.max_steps {max_steps}")
        if self.runtime.batch_may_change and self.training.epochs is not None:
            raise ValueError("runtime.batch_may_change: a length in epochs would change, too; give training.max_steps")
        if self.training.best is not None and self.data.validation is None:
            raise ValueError(
                "training.best: is chosen on validation images, not on test images; data.validation is null"
            )
        return self
