"""The one place where the steps between a dataset and a model are written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from vla_tune.data.augmentation import AugmentImages, CropImages, DisturbState, Paraphrase
from vla_tune.data.relative import RelativeActions, relative_parts
from vla_tune.data.transforms import Compose, NormalizeActions, NormalizeState, Scale, SelectCameras, Transform
from vla_tune.schema import CONTRACT_VERSION, Augmentation, Contract, Embodiment, Statistics, check_contract


@runtime_checkable
class ModelInputs(Protocol):
    """What a family of models does to samples beyond what every robot's pipeline does."""

    @property
    def steps(self) -> tuple[Transform, ...]:
        """From `images` by role, normalised `state` and, in training, normalised `actions`, to what `collate` reads."""
        ...

    def check(self, instruction: str) -> None:
        """Refuse an instruction that the model cannot be given.

        Raises:
            ValueError: it is named, with the reason.
        """
        ...


@runtime_checkable
class Cropping(ModelInputs, Protocol):
    """Inputs of a model that crops pictures by a rule of its own."""

    @property
    def crop_area(self) -> float:
        """The share of each picture's area that is kept."""
        ...

    def uncropped(self) -> ModelInputs:
        """The same, of whole pictures."""
        ...


def build_pipeline(contract: Contract, inputs: ModelInputs) -> Compose:
    """The pipeline that the contract describes: what acts, is measured or is compared, sees samples as they are.

    It takes the raw sample dict {camera key: uint8 [H W 3], state key: float32 [S], "instruction": str} of a data set, or with
    "images" by role in place of the keys, as an observation has them, and, in training, "actions" float32 [T A] in robot units
    and "action_mask" bool [T A]; without actions the steps on them do nothing. First come the robot's steps, then the model's. It
    gives what `collate` reads: `state` [S] and, in training, normalised `actions`, and what the model's own steps add;
    `Compose.inverse` leads back to robot units.

    Raises:
        ValueError: relative actions have no state to be relative to.
    """
    return Compose((SelectCameras(contract.embodiment.cameras), *_centre_crop(contract, inputs), *_steps(contract, inputs)))


def training_pipeline(contract: Contract, inputs: ModelInputs) -> Compose:
    """The same with the contract's augmentation, which takes the place of any centre crop.

    Its samples are those of `build_pipeline`, with `draw`, two numbers from which all that is random follows: the run's seed, and
    which sample of the run it is. Where the contract has no augmentation, it is `build_pipeline`'s.
    """
    augmentation = contract.augmentation
    if augmentation is None:
        return build_pipeline(contract, inputs)
    seen = inputs.uncropped() if augmentation.crop_area < 1 and isinstance(inputs, Cropping) else inputs
    changes = (AugmentImages(augmentation), Paraphrase(augmentation.paraphrases))
    noise = (DisturbState(augmentation.state_noise),) if augmentation.state_noise else ()
    return Compose((SelectCameras(contract.embodiment.cameras), *changes, *_steps(contract, seen, noise)))


def _centre_crop(contract: Contract, inputs: ModelInputs) -> tuple[CropImages, ...]:
    """What a policy that was trained on random crops sees of a picture; none where the base's own rule crops."""
    area = contract.augmentation.crop_area if contract.augmentation else 1.0
    own = inputs.crop_area if isinstance(inputs, Cropping) else 1.0
    return (CropImages(area),) if area < 1 and own == 1 else ()


def _steps(contract: Contract, inputs: ModelInputs, noise: tuple[DisturbState, ...] = ()) -> tuple[Transform, ...]:
    """What follows the robot's pictures; noise is on the normalised state."""
    body = contract.embodiment
    return (
        *relative_step(body),
        NormalizeState(Scale(contract.statistics.state), body.state_key),
        *noise,
        NormalizeActions(Scale(contract.statistics.action)),
        *inputs.steps,
    )


def relative_step(body: Embodiment) -> tuple[RelativeActions, ...]:
    """The step that makes actions relative, if any group is; the statistics describe its output."""
    parts = relative_parts(body)
    return (RelativeActions(parts, body.state_key),) if parts else ()


@dataclass(frozen=True)
class ModelPart:
    """What a model puts into a contract."""

    record: Mapping[str, Any]
    """As JSON data; `family` says who reads it."""
    resolution: float = 0.0
    """Between neighbouring actions that it can say, in normalised units; 0.0 where it says any number."""


def make_contract(
    embodiment: Embodiment,
    *,
    statistics: Statistics,
    horizon: int,
    execute_steps: int,
    precision: Literal["bf16", "fp32"],
    model: ModelPart,
    augmentation: Augmentation | None = None,
) -> Contract:
    """A contract of the present version.

    Raises:
        ValueError: its parts do not fit each other (`check_contract`).
    """
    contract = Contract(
        version=CONTRACT_VERSION,
        embodiment=embodiment,
        horizon=horizon,
        execute_steps=execute_steps,
        precision=precision,
        statistics=statistics,
        resolution=model.resolution,
        model=model.record,
        augmentation=augmentation,
    )
    check_contract(contract, f"the contract for {embodiment.name}")
    return contract
