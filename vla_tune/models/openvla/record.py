"""What a contract keeps of an OpenVLA model: prompt, pixels, action codes and how they are decoded."""

from dataclasses import dataclass, field
from typing import Literal

from vla_tune.data.pipeline import ModelPart
from vla_tune.models.family import own_record
from vla_tune.models.heads import HEADS
from vla_tune.models.language import check_language
from vla_tune.schema import YOUNGER, Contract, bounded, to_record
from vla_tune.tokens import ActionTokenizer, ActionTokens

FAMILY = "openvla"


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """How a camera image becomes the model's pixels (Prismatic's processor; one mean and deviation per vision tower).

    In this order: `input_jpeg`, `input_resize`, the crop, `resize`. What OpenVLA's and OpenVLA-OFT's evaluations on LIBERO do
    before the processor is `input_jpeg=95`, `input_resize="lanczos3"`, `center_crop_area=0.9`, `crop="tf_bilinear"`; on a robot
    the same without the JPEG. Fine-tunes of theirs that were trained with `image_aug` act well only with their crop.
    """

    height: int
    width: int
    resize: Literal["resize-naive", "resize-crop", "letterbox"]
    """Bicubic with antialiasing on uint8: ignoring the aspect ratio; to the shorter side and a centre crop; or padded to a square
    with the last tower's mean, then as `resize-crop`."""
    center_crop_area: float
    """Share of the area kept before the resize; 1.0 keeps everything."""
    means: tuple[tuple[float, float, float], ...]
    deviations: tuple[tuple[float, float, float], ...]
    crop: Literal["pil_bicubic", "tf_bilinear"] = field(default="pil_bicubic", metadata=YOUNGER)
    """How the centre is cut out: in one step with the resize; or to the model's size as `tf.image.crop_and_resize` does."""
    input_resize: Literal["none", "lanczos3"] = field(default="none", metadata=YOUNGER)
    """To the model's size before the crop, as `tf.image.resize` with Lanczos' kernel and antialiasing does; or not."""
    input_jpeg: int | None = field(default=None, metadata=YOUNGER)
    """Through a JPEG of this quality first, as the data sets were stored that published policies learned from; or not."""


@dataclass(frozen=True, kw_only=True)
class OpenVLARecord:
    """How a robot's samples become the inputs of an OpenVLA model, and its outputs actions."""

    family: Literal["openvla"]
    prompt: str
    """The template around `{instruction}`; the instruction is lower-cased."""
    image: ImageRule
    action_tokens: ActionTokens
    """Regression reads only the vocabulary's size from it, and one value per code."""
    decoding: str
    """Which of `models.heads.HEADS` decodes."""
    location_codes: int = field(default=0, metadata=YOUNGER)
    """Codes before the chunk that say where the named object is: the tabletop's base was pretrained with them."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a base was trained to be given."""

    image: ImageRule
    prompt: str
    vocabulary_size: int
    """V: action codes are counted down from here."""
    location_codes: int = 0

    def part(self, tokens: ActionTokenizer, *, decoding: str) -> ModelPart:
        """The model's part of a contract, with codes of `tokens`."""
        record = OpenVLARecord(
            family=FAMILY,
            prompt=self.prompt,
            image=self.image,
            action_tokens=tokens.to_record(),
            decoding=decoding,
            location_codes=self.location_codes,
        )
        return ModelPart(to_record(record), tokens.resolution)


def record_of(contract: Contract, *, source: str = "contract") -> OpenVLARecord:
    """The part of a contract that an OpenVLA model reads.

    Raises:
        ValueError: it is another family's, a field is missing, unknown, of the wrong type or without sense.
    """
    record = own_record(contract, OpenVLARecord, family=FAMILY, source=source)
    if record.decoding not in HEADS:
        raise ValueError(f"{source}: model.decoding={record.decoding[:40]!r} must be one of {', '.join(HEADS)}.")
    for side in ("height", "width"):
        bounded(source, side, getattr(record.image, side))
    if (quality := record.image.input_jpeg) is not None and not 1 <= quality <= 100:
        raise ValueError(f"{source}: image.input_jpeg={quality} lies between 1 and 100.")
    bounded(source, "location_codes", record.location_codes, least=0)
    check_language(contract, prompt=record.prompt, tokens=record.action_tokens, decoding=record.decoding, source=source)
    if "{state}" in record.prompt:
        raise ValueError(
            f"{source}: the prompt writes {{state}}, which OpenVLA reads as numbers (model.additions), not as words: leave it out."
        )
    return record
