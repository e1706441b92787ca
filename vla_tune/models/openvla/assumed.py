"""What is assumed of a published policy where no file of it says it: it has no contract, and its authors' code knows the rest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.load import load_config
from vla_tune.models.openvla.oft_files import oft_files
from vla_tune.models.openvla.published import PICTURES, published_contract, scaling
from vla_tune.models.openvla.record import ImageRule, record_of
from vla_tune.models.openvla.statistics_file import known_statistics, published_statistics
from vla_tune.schema import Camera, Contract, Embodiment, Gripper, Group, Normalization

_CHUNKS = {"libero": 8, "bridge": 5, "aloha": 25}
"""OpenVLA-OFT's, by a word in the name of the data set: its own code chooses them by that word (`prismatic/vla/constants.py`)."""
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_LIBERO_STATE = 8


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a user says of a published policy; None where it is left to what its files and its authors' code say."""

    unnorm_key: str | None = None
    """The data set by whose statistics actions are scaled."""
    embodiment: Embodiment | None = None
    """The robot; without it, Bridge's or LIBERO's end effector, whose cameras and rate are said instead."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """Role -> height x width of its pictures, e.g. `256x256`; the main camera first."""
    control_hz: float | None = None
    horizon: int | None = None
    predicts: Literal["autoregressive", "parallel", "regression"] | None = None
    normalization: Normalization | None = None
    pictures: str | None = None
    """One of `published.PICTURES`."""
    precision: Literal["bf16", "fp32"] = "bf16"


@dataclass(frozen=True)
class Assumed:
    """A contract for a published policy."""

    contract: Contract
    said: tuple[str, ...]
    """What was assumed, for people, a line each; in brackets what says otherwise."""


def assumed_contract(folder: Path, said: Said) -> Assumed:
    """The contract of a published OpenVLA or OpenVLA-OFT folder, from its files, from what the user says, and from what is usual.

    Raises:
        ValueError: something is neither in the files nor usual, or two things contradict each other; what to say is named.
    """
    known, config = known_statistics(folder), load_config(folder)
    key = said.unnorm_key or (known[0] if len(known) == 1 else None)
    horizon = said.horizon or _usual_horizon(folder, config, key)
    missing = _unsaid(folder, said, key, known, horizon)
    if missing or key is None or horizon is None:
        raise ValueError(f"{folder} is a published policy without a contract.json: say also {'; '.join(missing)}.")
    decoding = said.predicts or ("regression" if config.action_head_dimension else "autoregressive" if horizon == 1 else "parallel")
    pictures = said.pictures or ("fine_tuned" if len(known) == 1 or "libero" in key else "processor")
    if pictures not in PICTURES:
        raise ValueError(f"pictures={pictures!r}: choose one of {', '.join(PICTURES)}.")
    body = said.embodiment or _end_effector(folder, said, config, key, horizon)
    contract = published_contract(
        folder,
        embodiment=body,
        unnorm_key=key,
        precision=said.precision,
        horizon=horizon,
        decoding=decoding,
        normalization=said.normalization,
        pictures=pictures,
    )
    return Assumed(contract, tuple(_lines(contract, said, pictures)))


def _usual_horizon(folder: Path, config: OpenVLAConfig, key: str | None) -> int | None:
    """1 for OpenVLA; of OpenVLA-OFT, whose folders look alike, what the name of the data set tells."""
    if not (oft_files(folder) or config.action_head_dimension or config.proprio_dimension or config.film_dimension):
        return 1
    return next((steps for word, steps in _CHUNKS.items() if key is not None and word in key.lower()), None)


def _unsaid(folder: Path, said: Said, key: str | None, known: Sequence[str], horizon: int | None) -> list[str]:
    """What must be said still, each with an example."""
    if said.embodiment is not None and (said.cameras or said.control_hz is not None):
        raise ValueError("embodiment=... says the cameras and the rate: leave out cameras= and control_hz=, or the embodiment.")
    missing: list[str] = []
    if key is None:
        missing.append(
            f"unnorm_key=<the data set of your robot: {', '.join(known) or 'none, so give its dataset_statistics.json'}>"
        )
    if horizon is None:
        missing.append("horizon=<actions in a chunk: 8 for OFT's LIBERO models, 5 for Bridge, 25 for ALOHA>")
    if said.embodiment is None and said.control_hz is None:
        missing.append("control_hz=<actions per second in its training: 5 for Bridge, 20 for LIBERO>")
    if said.embodiment is None and not said.cameras:
        missing.append("'cameras={front: 256x256}' <role: height x width of its pictures, the main camera first>")
    return missing


def _end_effector(folder: Path, said: Said, config: OpenVLAConfig, key: str, horizon: int) -> Embodiment:
    """What Bridge and its like, or LIBERO, command: a hand's motion and a gripper.

    Open X-Embodiment's end effector moves in metres and radians; LIBERO's controller takes shares of its largest step.

    Raises:
        ValueError: the actions or the state have other dimensions than these robots'.
    """
    kind = scaling(horizon, 7, folder) if said.normalization is None else said.normalization
    statistics, libero = published_statistics(folder, key, normalization=kind), "libero" in key.lower()
    scaled = statistics.action.normalization
    if len(scaled) != 7 or config.proprio_dimension not in (0, _LIBERO_STATE * libero):
        raise ValueError(
            f"{folder}: {key} has {len(scaled)} action dimensions and the model reads a state of {config.proprio_dimension}; only "
            "an end effector of 7 without a state, or LIBERO's with 8, can be assumed: say embodiment=<your robot's file>."
        )
    length, angle, turning = ("1", "1", "rotation_vector") if libero else ("m", "rad", "euler_xyz")
    hand = {"frame": "robot_base", "representation": "delta", "gripper": None}
    return Embodiment(
        name=key,
        cameras=tuple(_camera(role, size) for role, size in said.cameras.items()),
        state_key="observation.state",
        state=_libero_state(kind) if config.proprio_dimension else (),
        action_key="action",
        action=(
            Group(name="translation", dimension=3, unit=length, rotation="none", normalization=scaled[0], **hand),
            Group(name="rotation", dimension=3, unit=angle, rotation=turning, normalization=scaled[3], **hand),
            _group("gripper", 1, "1", scaled[6], gripper=Gripper(engaged=0.0, released=1.0)),
        ),
        control_hz=float(said.control_hz or 0),
    )


def _libero_state(kind: Normalization) -> tuple[Group, ...]:
    hand = _group("position", 3, "m", kind, frame="world")
    turned = _group("orientation", 3, "rad", kind, frame="world", rotation="rotation_vector")
    return hand, turned, _group("fingers", 2, "m", kind)


def _group(
    name: str,
    dimension: int,
    unit: str,
    kind: Normalization,
    *,
    frame: str = "none",
    rotation: Literal["none", "rotation_vector"] = "none",
    gripper: Gripper | None = None,
) -> Group:
    return Group(
        name=name,
        dimension=dimension,
        unit=unit,
        frame=frame,
        representation="absolute",
        rotation=rotation,
        normalization=kind,
        gripper=gripper,
    )


def _camera(role: str, size: str) -> Camera:
    if (found := _SIZE.fullmatch(str(size))) is None:
        raise ValueError(f"cameras={{{role}: {size}}}: write the height and width of its pictures as 256x256.")
    return Camera(role=role, key=f"observation.images.{role}", height=int(found[1]), width=int(found[2]))


def _lines(contract: Contract, said: Said, pictures: str) -> list[str]:
    body, scaled, record = contract.embodiment, contract.statistics.action, record_of(contract)
    kinds = " and ".join(dict.fromkeys(kind for kind in scaled.normalization if kind != "none")) or "nothing"
    groups = "; ".join(
        f"{group.name} [{group.dimension}] {group.representation}, unit {group.unit}, frame {group.frame}" for group in body.action
    )
    grippers = [group.gripper for group in body.action if group.gripper is not None]
    ends = ", ".join(f"{gripper.engaged:g} closes, {gripper.released:g} opens" for gripper in grippers) or "none"
    cameras = ", ".join(f"{camera.role} {camera.height} x {camera.width}" for camera in body.cameras)
    way = {"autoregressive": "codes one after the other", "parallel": "codes at once", "regression": "numbers at once"}
    otherwise = "" if said.embodiment else " [embodiment=<file>]"
    return [
        f"statistics of {contract.statistics.dataset}: {sum(scaled.mask)} of {len(scaled.mask)} dimensions by {kinds} "
        "[unnorm_key, normalization]",
        f"actions: {groups}{otherwise}",
        f"gripper: {ends}{otherwise}",
        f"state: {', '.join(f'{group.name} [{group.dimension}]' for group in body.state) or 'none is read'}{otherwise}",
        f"cameras: {cameras}; {body.control_hz:g} actions per second [cameras, control_hz]",
        f"pictures: {_picture(record.image)} [pictures={pictures}]",
        f"chunk: {contract.horizon}, {way[record.decoding]}, {contract.precision} [horizon, predicts, precision]",
    ]


def _picture(rule: ImageRule) -> str:
    jpeg = [] if rule.input_jpeg is None else [f"JPEG {rule.input_jpeg}"]
    lanczos = [] if rule.input_resize == "none" else [rule.input_resize]
    crop = f"centre crop of {rule.center_crop_area:g} of the area" if rule.center_crop_area != 1 else "no crop"
    return f"{', '.join([*jpeg, *lanczos, crop])}, {rule.resize} to {rule.height} x {rule.width}"
