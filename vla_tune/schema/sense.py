"""What a record may say: numbers within bounds, names that are told apart, statistics that do not contradict each other."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from vla_tune.schema.augmentation import check_augmentation
from vla_tune.schema.body import UNITS, Camera, Embodiment, Group
from vla_tune.schema.column import ColumnStatistics, Statistics
from vla_tune.schema.strict import to_record

if TYPE_CHECKING:
    from vla_tune.schema.contract import Contract

_WIDTHS = {"euler_xyz": 3, "rotation_vector": 3, "quaternion_xyzw": 4, "rotation_6d": 6}
_MOST = {
    "cameras": 16,
    "height": 16384,
    "width": 16384,
    "groups": 256,
    "dimensions": 4096,
    "horizon": 4096,
    "location_codes": 4096,
    "code_tokens": 64,
    "vocabulary_size": 2**24,
    "control_hz": 100_000,
    "characters of a name": 256,
    "characters of the prompt": 8192,
}
"""Far beyond any robot or model; what lies above would take memory before anybody looks at it."""
_LARGEST = 1e30
"""Of a statistic's number: a difference of two still fits float32."""
_WIDEST = 2
"""Between two normalised actions that a model can say: what it says lies in [-1, 1]."""


def check_embodiment(body: Embodiment, source: str) -> None:
    """Refuse an embodiment that says the same thing twice, or what cannot be.

    Raises:
        ValueError: naming the field, what it says and what it may say.
    """
    bounded(source, "cameras", len(body.cameras))
    _check_cameras(body.cameras, source)
    if not 0 < body.control_hz <= _MOST["control_hz"]:
        raise ValueError(f"{source}: control_hz is {body.control_hz}: it lies above 0 and up to {_MOST['control_hz']} Hz.")
    for name, groups in {"state": body.state, "action": body.action}.items():
        least = min(1, len(groups))  # a robot may have no state
        bounded(source, "groups", len(groups), least=least)
        bounded(source, "dimensions", sum(group.dimension for group in groups), least=least)
        _different(source, f"{name} groups", [group.name for group in groups])
        for group in groups:
            _check_group(group, f"{source}: {name} group {group.name!r}")
        _check_names(groups, f"{source}: {name}")
    if not body.action:
        raise ValueError(f"{source} has no action group: say what the policy commands.")
    for text in (body.name, body.state_key, body.action_key):
        _named(source, text)


def check_statistics(statistics: Statistics, source: str) -> None:
    """Refuse statistics that contradict themselves.

    Raises:
        ValueError: naming the column, the dimension and its numbers.
    """
    for name in ("action", "state"):
        column: ColumnStatistics = getattr(statistics, name)
        numbers = {key: np.array(values) for key, values in column.numbers.items()}
        if len({len(values) for values in (*numbers.values(), column.normalization)}) > 1:
            continue  # of another width than the embodiment's: that is said there
        for low, high in (("min", "max"), ("q01", "q99")):
            _refuse_where(numbers[low] > numbers[high], numbers, (low, high), f"{source}: statistics.{name}")
        _refuse_where(numbers["std"] < 0, numbers, ("std",), f"{source}: statistics.{name}")
        for key, values in numbers.items():
            _refuse_where(~(np.abs(values) <= _LARGEST), numbers, (key,), f"{source}: statistics.{name}")
    if statistics.num_transitions < 0 or statistics.num_trajectories < 0:
        raise ValueError(f"{source}: statistics of a negative number of frames or episodes: compute them again.")


def check_contract(contract: "Contract", source: str) -> None:
    """Refuse a contract whose parts do not fit each other, or that would take memory without end.

    Raises:
        ValueError: naming the field, what it says and what it may say.
    """
    check_embodiment(contract.embodiment, source)
    check_widths(contract, source)
    check_statistics(contract.statistics, source)
    if not 1 <= contract.execute_steps <= contract.horizon:
        raise ValueError(f"{source}: execute_steps={contract.execute_steps} must lie between 1 and the horizon {contract.horizon}.")
    bounded(source, "horizon", contract.horizon)
    if not 0 <= contract.resolution <= _WIDEST:
        raise ValueError(f"{source}: resolution={contract.resolution:g} lies between 0 and {_WIDEST}, the width of [-1, 1].")
    family = contract.model.get("family")
    if not isinstance(family, str) or not family.isprintable():
        raise ValueError(f"{source}: model names no family: take the contract.json of the training run again.")
    _named(source, family)
    if contract.augmentation is not None:
        check_augmentation(contract.augmentation, source)
    if contract.jpeg_quality is not None and not 1 <= contract.jpeg_quality <= 100:
        raise ValueError(f"{source}: jpeg_quality={contract.jpeg_quality} lies between 1 and 100.")


def check_widths(contract: "Contract", source: str) -> None:
    """Refuse statistics of another robot.

    Raises:
        ValueError: naming the column, and both widths or both ways of scaling.
    """
    body, statistics = contract.embodiment, contract.statistics
    for name, groups, column in (("action", body.action, statistics.action), ("state", body.state, statistics.state)):
        declared = [group.normalization for group in groups for _ in range(group.dimension)]
        for key, values in to_record(column).items():
            if len(values) != len(declared):
                raise ValueError(
                    f"{source}: statistics.{name}.{key} has {len(values)} values, the embodiment {body.name} declares "
                    f"{len(declared)} {name} dimensions. The statistics belong to another robot: compute them again."
                )
        if declared != list(column.normalization):
            raise ValueError(
                f"{source}: statistics.{name} scales {list(column.normalization)}, the embodiment {body.name} declares "
                f"{declared}: take the contract.json of the training run again."
            )


def _check_cameras(cameras: tuple[Camera, ...], source: str) -> None:
    _different(source, "camera roles", [camera.role for camera in cameras])
    _different(source, "camera keys", [camera.key for camera in cameras])
    for camera in cameras:
        for text in (camera.role, camera.key):
            _named(source, text)
        for side in ("height", "width"):
            bounded(f"{source}: camera {camera.role!r}", side, getattr(camera, side))


def _check_group(group: Group, source: str) -> None:
    bounded(source, "dimensions", group.dimension)
    for text in (group.name, group.frame):
        _named(source, text)
    if group.unit not in UNITS:
        raise ValueError(f"{source} is in {group.unit[:40]!r}: a unit is one of {', '.join(UNITS)}.")
    width = _WIDTHS.get(group.rotation, group.dimension)
    if group.dimension != width:
        raise ValueError(f"{source} has dimension {group.dimension}, a rotation as {group.rotation} has {width}.")
    if group.gripper is not None and group.gripper.engaged == group.gripper.released:
        raise ValueError(f"{source}: engaged and released are both {group.gripper.engaged}: say the two ends.")


def _check_names(groups: Iterable[Group], source: str) -> None:
    """All dimensions have a name of their own, or none has one."""
    named = [group for group in groups if group.names]
    for group in named:
        if len(group.names) != group.dimension:
            raise ValueError(f"{source} group {group.name!r} has {group.dimension} dimensions, {len(group.names)} names.")
    if named and (bare := [group.name for group in groups if not group.names]):
        raise ValueError(
            f"{source} groups {', '.join(bare)} have no names, others have: name all dimensions, or leave all to the data."
        )
    names = [name for group in named for name in group.names]
    _different(source, "names", names)
    for name in names:
        _named(source, name)


def _different(source: str, what: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{source} has {what} twice: {', '.join(twice)[:200]}. Each needs one of its own.")


def _named(source: str, text: str) -> None:
    if not text.strip() or len(text) > _MOST["characters of a name"]:
        raise ValueError(f"{source}: the name {text[:60]!r} has {len(text)} characters: 1 to {_MOST['characters of a name']}.")


def bounded(source: str, what: str, value: int, *, least: int = 1) -> None:
    """Refuse a size that would take memory before anybody looks at it.

    Raises:
        ValueError: naming `what`, the value and its range.
    """
    if not least <= value <= _MOST[what]:
        raise ValueError(f"{source}: {value} {what}: {least} to {_MOST[what]}.")


def _refuse_where(wrong: np.ndarray, numbers: Mapping[str, np.ndarray], keys: tuple[str, ...], source: str) -> None:
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        said = ", ".join(f"{key}[{place}] = {numbers[key][place]:g}" for key in keys)
        raise ValueError(f"{source} has {said}: these are no statistics. They were edited, or are damaged: compute them again.")
