"""What an environment must show and tell: one reading of it, for an evaluation, a simulated robot and a replay.

A gymnasium environment is made by `make(task=...)`, of which `env.make` in a configuration is a part. Its `action_space` is a `Box`
[A], in the units of the embodiment's action groups and at its `control_hz`. What `reset` and `step` show is a dictionary:

- `images`: {name: uint8 [H W 3]}, for every camera of the embodiment (`names_of_pictures`); more are allowed. In place of a picture
  there may be a function without arguments that draws it, until the next step or reset: what nobody looks at is not drawn.
- `state`: float32 [S], in the units of the embodiment's state groups; a robot without a state may leave it out.
- `instruction`: a sentence, in every observation.

`info["success"]` tells whether the goal is reached, after every step or when it is. `info["distractor_instruction"]` may tell,
always, the instruction for another thing in sight, which an evaluation then tries as the wrong one. An episode ends by `terminated`
or `truncated`, or at the limit with which the environment is registered; all at its start follows from `reset(seed=...)`.
An environment that begins in one of a fixed set of starts says their number as `metadata["starts"]`: an evaluation plays none of
them twice, and adds `options={"episode": number}`, counted from 0; a recording leaves them out by `options={"stored": False}`. One
that knows its tasks lists them as `metadata["tasks"]`, so that others are refused before any is played.
`docs/guides/environments.md` is the guide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_tune.schema import Camera, Embodiment, Observation

type Picture = np.ndarray | Callable[[], Any]

SUCCESS = "success"
EPISODE = "episode"
"""In the options of `reset`: which episode of an evaluation begins."""
STORED = "stored"
"""In the options of `reset`: False where an episode begins as `reset` draws it, though there are stored starts."""
STARTS = "starts"
"""In `metadata`: how many stored starts there are, None where nobody counted them; not there where there are none."""
TASKS = "tasks"
"""In `metadata`: the tasks that can be asked for, where the environment knows them."""
_SHOWN = {"images": "{name: uint8 [H W 3]}", "state": "float32 [S]", "instruction": "str"}


@runtime_checkable
class SuccessRule(Protocol):
    """When an episode counts as a success."""

    def __call__(self, before: bool, now: bool) -> bool:
        """Whether it does after a step that told `now`, where `before` is what this said after the step before it."""
        ...


@dataclass(frozen=True)
class Once:
    """Once reached counts, whatever comes after (Meta-World's rule, arXiv 1910.10897, §4.1)."""

    def __call__(self, before: bool, now: bool) -> bool:
        """Reached now or before."""
        return before or now


@dataclass(frozen=True)
class AtTheEnd:
    """What the last step tells counts: a goal that is left again was not reached."""

    def __call__(self, before: bool, now: bool) -> bool:
        """Reached now."""
        return now


def beside_stored(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The option of `reset` by which an episode begins in no stored start, for an environment that has some."""
    return {STORED: False} if STARTS in metadata else {}


def told(info: Mapping[str, Any]) -> bool | None:
    """What `info` tells of success, as a bool, a numpy bool, 0 or 1, or an array of one of them; None where it tells nothing.

    Raises:
        ValueError: it is told under another name, or as something else.
    """
    if SUCCESS not in info:
        alike = sorted(str(name) for name, value in info.items() if SUCCESS in str(name).lower() and said_bool(value) is not None)
        if alike:
            raise ValueError(f"the environment tells info[{alike[0]!r}], not info['success']: wrap it so that it has this name.")
        return None
    if (value := said_bool(info[SUCCESS])) is None:
        raise ValueError(f"the environment tells info['success']={info[SUCCESS]!r}: tell True or False.")
    return value


def observation_in(shown: Any, embodiment: Embodiment) -> Observation:
    """What an environment shows, by the roles of the embodiment's cameras; pictures that are functions are drawn.

    Raises:
        ValueError: something is missing, ambiguous, not finite or of another kind; what is there is named beside it.
    """
    seen = without_pictures(shown, embodiment)
    names = names_of_pictures(list(shown["images"]), embodiment)
    return replace(seen, images={role: drawn(name, shown["images"][name]) for role, name in names.items()})


def without_pictures(shown: Any, embodiment: Embodiment) -> Observation:
    """The same without any picture: none is drawn.

    Raises:
        ValueError: as `observation_in` does, of all but the pictures themselves.
    """
    if not isinstance(shown, Mapping):
        raise ValueError(f"the environment shows {type(shown).__name__}, not a dictionary of {_wanted()}.")
    if not embodiment.state:
        shown = {**shown, "state": np.zeros(0, np.float32)}  # what such a policy does not read need not fit it
    if missing := [name for name in _SHOWN if name not in shown]:
        raise ValueError(
            f"the environment shows {sorted(map(str, shown))} but no {', '.join(missing)}: wrap it so that it shows {_wanted()}."
        )
    images, state, instruction = shown["images"], np.asarray(shown["state"]), shown["instruction"]
    if not isinstance(images, Mapping):
        raise ValueError(f"the environment shows images as {type(images).__name__}, not as a dictionary: {_wanted()}.")
    names_of_pictures(list(images), embodiment)
    if state.shape != (embodiment.state_dimension,):
        raise ValueError(
            f"the environment shows a state of shape {list(state.shape)}, {embodiment.name!r} has {embodiment.state_dimension} "
            "dimensions: the policy belongs to another robot."
        )
    if not np.isfinite(state).all():
        raise ValueError(f"the environment's state is {state.tolist()}: its simulation broke down.")
    if not isinstance(instruction, str):
        raise ValueError(f"the environment shows an instruction of type {type(instruction).__name__}: show a sentence.")
    return Observation(images={}, state=shown["state"], instruction=instruction)


def drawn(name: str, picture: Picture) -> np.ndarray:
    """A picture, drawn where it is a function.

    Raises:
        ValueError: it is none: not uint8 [H W 3].
    """
    picture = np.asarray(picture() if callable(picture) else picture)
    check_picture(name, picture)
    return picture


def names_of_pictures(shown: Sequence[str], embodiment: Embodiment) -> dict[str, str]:
    """Role of each camera -> the name of its picture, of those that an environment shows.

    A picture may be called by its camera's whole key, by an end of the key (`left.wrist`, `wrist`) where no other camera's key ends
    so, or by its role where no other camera's key ends so.

    Raises:
        ValueError: a camera has no picture, or its name is another camera's too.
    """
    ends = {camera.role: _ends(camera.key) for camera in embodiment.cameras}
    found: dict[str, str] = {}
    for camera in embodiment.cameras:
        others = {name for role, names in ends.items() if role != camera.role for name in names}
        own = [name for name in ends[camera.role] if name not in others]
        own += [camera.role] if camera.role not in others else []
        if name := next((name for name in own if name in shown), None):
            found[camera.role] = name
    if missing := [camera for camera in embodiment.cameras if camera.role not in found]:
        raise ValueError(_without(missing, shown, embodiment, ends))
    return found


def _ends(key: str) -> list[str]:
    """The whole key, then ever less of it."""
    parts = key.split(".")
    return [".".join(parts[place:]) for place in range(len(parts))]


def _without(missing: Sequence[Camera], shown: Sequence[str], embodiment: Embodiment, ends: Mapping[str, Sequence[str]]) -> str:
    needed = ", ".join(repr(_shortest(camera, ends)) for camera in missing)
    common = sorted({name for name in shown if sum(name in names for names in ends.values()) > 1})
    said = f"the environment shows cameras {sorted(shown)}, {embodiment.name!r} needs {needed} too"
    return f"{said}: {common[0]!r} could be either of its cameras." if common else f"{said}: add them to its cameras."


def _shortest(camera: Camera, ends: Mapping[str, Sequence[str]]) -> str:
    others = {name for role, names in ends.items() if role != camera.role for name in names}
    return next((name for name in reversed(ends[camera.role]) if name not in others), camera.role)


def check_picture(name: str, picture: np.ndarray) -> None:
    """Refuse what is no picture: uint8 [H W 3]."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"the environment's picture {name!r} is {picture.dtype} {list(picture.shape)}: show uint8 [H W 3], as in the data."
        )


def said_bool(value: Any) -> bool | None:
    """A truth value in any form: a bool, 0 or 1, or an array of one of them; None for anything else."""
    array = np.asarray(value)
    return bool(array.item()) if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1) else None


def _wanted() -> str:
    return "{" + ", ".join(f'"{name}": {kind}' for name, kind in _SHOWN.items()) + "}"
