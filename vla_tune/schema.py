"""The contract between training and the robot: typed, frozen records, and the axis legend.

Axis names in every public signature: B batch, V camera views, C channels, H W pixels, L text tokens, T horizon, A action dims,
S state dimensions, K action codes per chunk, D model width, N observations.

This module needs numpy and cattrs only: a robot computer reads the contract without torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

CONTRACT_FILE = "contract.json"
CONTRACT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """What the two ends of a gripper or suction dimension mean on this robot."""

    engaged: float
    """The value that closes the gripper or switches the suction on."""
    released: float
    """The value that opens it or switches it off."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some neighbouring dimensions of the state or the action that share a unit and a meaning."""

    name: str
    dimension: int
    unit: str
    """SI, as written: `m`, `rad`, `m/s`; `1` for a pure number."""
    frame: str
    """The coordinate frame, e.g. `table` or `robot_base`; `none` where there is none."""
    representation: Literal["absolute", "delta", "relative_to_first"]
    rotation: Literal["none", "euler_xyz", "rotation_vector", "quaternion_xyzw", "rotation_6d"]
    normalized: bool
    """Whether the statistics scale it to [-1, 1]; a group in [0, 1] such as a gripper passes unscaled."""
    gripper: Gripper | None


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera: its role for the model and its key in the dataset and the environment."""

    role: str
    key: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """A robot as the policy sees it."""

    name: str
    cameras: tuple[Camera, ...]
    state_key: str
    state: tuple[Group, ...]
    action_key: str
    action: tuple[Group, ...]
    control_hz: int

    @property
    def state_dimension(self) -> int:
        """S."""
        return sum(group.dimension for group in self.state)

    @property
    def action_dimension(self) -> int:
        """A."""
        return sum(group.dimension for group in self.action)

    @property
    def action_units(self) -> tuple[str, ...]:
        """The unit of each action dimension."""
        return tuple(group.unit for group in self.action for _ in range(group.dimension))


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """How a camera image becomes the model's pixels (Prismatic's processor; one mean and deviation per vision tower)."""

    height: int
    width: int
    resize: Literal["resize-naive", "resize-crop", "letterbox"]
    """Bicubic with antialiasing on uint8: ignoring the aspect ratio; to the shorter side and a centre crop; or padded to a square
    with the last tower's mean, then as `resize-crop`."""
    center_crop_area: float
    """Share of the area kept before the resize; 1.0 keeps everything."""
    means: tuple[tuple[float, float, float], ...]
    deviations: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class ProcessorRule:
    """How images and prompt become a model's inputs where the model brings its own processor (`transformers`)."""

    kind: Literal["processor"]
    height: int
    width: int
    """Every camera image is resized to this before the processor sees it, so that the number of image tokens never changes."""
    layout: Literal["chat", "prefix"]
    """The prompt is a user's turn in the processor's chat template, or a plain prefix (PaliGemma, arXiv 2407.07726, §3.1)."""
    image_options: Mapping[str, bool]
    """What the processor is told at every call, e.g. not to cut images into tiles."""
    num_codes: int
    """How many ids below the vocabulary size stand for action codes."""
    code_tokens: tuple[str, ...]
    """Patterns of the tokenizer's own special tokens that may be among them, e.g. `<loc*>`; else they are ids without a text."""
    processor_hash: str
    """SHA-256 of the processor's configuration: another one would make other inputs."""


InputRule = ImageRule | ProcessorRule


@dataclass(frozen=True, kw_only=True)
class ColumnStatistics:
    """Per-dimension statistics of the state or the action, in robot units, over exactly the frames in use."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...]
    """Which dimensions are scaled."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one dataset, with its size; the same numbers as OpenVLA's `dataset_statistics.json`."""

    dataset: str
    action: ColumnStatistics
    state: ColumnStatistics
    num_transitions: int
    num_trajectories: int


@dataclass(frozen=True, kw_only=True)
class BinTokens:
    """A tokenizer with one code per action value, as data."""

    kind: Literal["bins"]
    vocabulary_size: int
    """V: the code of a bin is counted down from here (`openvla-spec`: 32000)."""
    edges: tuple[tuple[float, ...], ...]
    """Bin edges in normalised units; one row serves every dimension, else one row per dimension."""


@dataclass(frozen=True, kw_only=True)
class FastTokens:
    """A FAST tokenizer (arXiv 2501.09747), as data."""

    kind: Literal["fast"]
    vocabulary_size: int
    """V: FAST's token i is the id V - 1 - i."""
    scale: float
    """DCT coefficients are multiplied by it and rounded."""
    min_token: int
    """The smallest rounded coefficient in the data it was fitted on."""
    horizon: int
    """T."""
    action_dimension: int
    """A."""
    bpe: str
    """The byte-pair tokenizer, as the JSON of `tokenizers`."""


ActionTokens = BinTokens | FastTokens


@dataclass(frozen=True, kw_only=True)
class BaseWeights:
    """The weights that an adapter belongs to."""

    content_hash: str
    format: str
    """In which training multiplied with them: `bf16`, `nf4`, ..."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything that must be the same in training, evaluation, merging and on the robot."""

    version: int
    embodiment: Embodiment
    horizon: int
    """T, the actions predicted at once."""
    execute_steps: int
    """How many of them are executed before the policy looks again."""
    prompt: str
    """The template around `{instruction}`; the instruction is lower-cased."""
    image: InputRule
    action_tokens: ActionTokens
    """Regression reads only the vocabulary's size from it, and one value per code."""
    location_codes: int
    """Codes before the chunk that say where the named object is; learned in pretraining, decoded never."""
    decoding: Literal["parallel", "autoregressive", "regression"]
    """All codes in one pass, one code after the other, or numbers in one pass without codes."""
    precision: Literal["bf16", "fp32"]
    """Of the forward pass: bf16 is autocast, fp32 is none."""
    statistics: Statistics
    base: BaseWeights | None = None
    """Beside an adapter's files: what it belongs to. Whole weights need no other."""
    jpeg_quality: int | None = None
    """At which pictures come to a server; None where they come as they are."""

    @property
    def statistics_hash(self) -> str:
        """SHA-256 of the statistics, to compare two sides without sending them."""
        return content_hash(_converter().unstructure(self.statistics))

    def save(self, folder: Path) -> None:
        """Write `contract.json` into `folder`."""
        record = _converter().unstructure(self) | {"statistics_hash": self.statistics_hash}
        (folder / CONTRACT_FILE).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Contract":
        """Read `contract.json` from `folder`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a field is missing, unknown or of the wrong type, or the statistics were edited.
        """
        path = folder / CONTRACT_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a policy without its contract cannot be run; export it again.")
        return contract_from_record(json.loads(path.read_text()), source=str(path))


@dataclass(frozen=True)
class Observation:
    """What the robot sees at one tick."""

    images: Mapping[str, UInt8[np.ndarray, "H W 3"]]
    """Camera role -> image."""
    state: Float[np.ndarray, " S"]
    """Robot units."""
    instruction: str


@cache
def _converter() -> Any:
    """Of records and JSON data; made when it is needed, because a benchmark of the model needs no cattrs."""
    from cattrs.preconf.json import make_converter

    converter = make_converter(forbid_extra_keys=True)

    @converter.register_structure_hook
    def _action_tokens(record: Any, _: Any) -> ActionTokens:
        """By `kind`; what is neither is read as the first, whose errors name the field."""
        kind = record.get("kind") if isinstance(record, Mapping) else None
        return converter.structure(record, FastTokens if kind == "fast" else BinTokens)

    @converter.register_structure_hook
    def _input_rule(record: Any, _: Any) -> InputRule:
        """By `kind`, which only the processor's rule has."""
        kind = record.get("kind") if isinstance(record, Mapping) else None
        return converter.structure(record, ProcessorRule if kind == "processor" else ImageRule)

    return converter


def contract_from_record(record: Mapping[str, Any], *, source: str) -> Contract:
    """The contract in `record`, checked field by field; `source` is named in errors."""
    fields = dict(record)
    _refuse_targets(fields, source)
    expected = fields.pop("statistics_hash", None)
    contract = _structure(fields, Contract, source)
    if contract.version != CONTRACT_VERSION:
        raise ValueError(f"{source} has version {contract.version}; this library reads {CONTRACT_VERSION}.")
    if expected != contract.statistics_hash:
        raise ValueError(
            f"{source}: the statistics do not match their hash ({expected}). They were edited, or belong to another run: "
            "take the contract.json of the training run again."
        )
    _check_widths(contract, source)
    return contract


def embodiment_from_record(record: Mapping[str, Any]) -> Embodiment:
    """The embodiment written in a data YAML; every field is required."""
    return _structure(dict(record), Embodiment, f"embodiment {record.get('name', '(without a name)')}")


def statistics_from_record(record: Mapping[str, Any], *, source: str) -> Statistics:
    """Statistics read from a cache or a checkpoint."""
    return _structure(dict(record), Statistics, source)


def fast_tokens_from_record(record: Mapping[str, Any], *, source: str) -> FastTokens:
    """A FAST tokenizer read from a file of its own."""
    return _structure(dict(record), FastTokens, source)


def to_record(value: Any) -> Any:
    """A record of this module as plain JSON data."""
    return _converter().unstructure(value)


def content_hash(record: Any) -> str:
    """SHA-256 over canonical JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _structure[T](record: dict[str, Any], kind: type[T], source: str) -> T:
    import cattrs

    try:
        return _converter().structure(record, kind)
    except cattrs.BaseValidationError as error:
        problems = "; ".join(cattrs.transform_error(error, path=""))
        raise ValueError(f"{source}: {problems}. Required fields have no default: write them out.") from None


def _refuse_targets(value: Any, source: str) -> None:
    if isinstance(value, Mapping) and "_target_" in value:
        raise ValueError(f"{source} holds _target_={value['_target_']!r}: a contract is data and runs no code.")
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for child in children:
        _refuse_targets(child, source)


def _check_widths(contract: Contract, source: str) -> None:
    body, statistics = contract.embodiment, contract.statistics
    widths = {
        "action": (body.action_dimension, statistics.action),
        "state": (body.state_dimension, statistics.state),
    }
    for name, (dimension, column) in widths.items():
        for key, values in to_record(column).items():
            if len(values) != dimension:
                raise ValueError(
                    f"{source}: statistics.{name}.{key} has {len(values)} values, the embodiment {body.name} declares "
                    f"{dimension} {name} dimensions. The statistics belong to another robot: compute them again."
                )
