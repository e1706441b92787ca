"""What an environment tells before anybody acts in it: how an episode begins, and what code is behind it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from vla_tune.environment import EPISODE, drawn
from vla_tune.workers.wire import sendable

_DIGITS = 16
_NOBODYS = {"vla_tune", *sys.stdlib_module_names}


@dataclass(frozen=True, kw_only=True)
class Start:
    """How an episode begins, twice from one seed."""

    info: Mapping[str, Any]
    """Of the first time; of an environment in another process, what of it is plain data."""
    first: Mapping[str, str]
    """`frame` and `state`: hashes of the pictures, and of state and physics."""
    again: Mapping[str, str]
    """The same of the second time."""
    renderer: str | None
    """OpenGL's vendor, renderer and version, where MuJoCo is imported."""
    metadata: Mapping[str, Any]
    """What of the environment's is plain data."""


@dataclass(frozen=True, kw_only=True)
class Behind:
    """Where an environment comes from."""

    layers: Sequence[str]
    """The modules of its wrappers, then of what they wrap, with their base classes."""
    modules: Mapping[str, Sequence[str]]
    """What is imported there, the standard library and this package aside: name -> file and package."""
    elsewhere: Mapping[str, Any] | None = None
    """`code_of` what it stands for in an interpreter of its own."""


@runtime_checkable
class Elsewhere(Protocol):
    """An environment that stands for one in another interpreter, and asks there."""

    def code(self) -> Mapping[str, Any]:
        """Its `code_of`."""
        ...

    def physics(self) -> Mapping[str, np.ndarray]:
        """Positions and velocities, where it has them."""
        ...

    def renderer(self) -> str | None:
        """Who draws it, once it was drawn."""
        ...


def start_of(env: gymnasium.Env, *, seed: int, episode: int) -> Start:
    """Begins an episode twice."""
    shown, info = env.reset(seed=seed, options={EPISODE: episode})
    first = _hashes(env, shown)
    inner = env.unwrapped
    renderer = inner.renderer() if isinstance(inner, Elsewhere) else renderer_here()
    again = _hashes(env, env.reset(seed=seed, options={EPISODE: episode})[0])
    return Start(info=dict(info), first=first, again=again, renderer=renderer, metadata=sendable(env.metadata))


def behind(env: gymnasium.Env) -> Behind:
    """Looks at its wrappers, and at what is imported here."""
    elsewhere = inner.code() if isinstance(inner := env.unwrapped, Elsewhere) else None
    layers = [base.__module__ for layer in _layers(env) for base in type(layer).__mro__]
    return Behind(layers=layers, modules=imported_here(), elsewhere=elsewhere)


def imported_here() -> dict[str, Sequence[str]]:
    """As `Behind.modules` has it, of this process."""
    found: dict[str, Sequence[str]] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _NOBODYS and (file := getattr(module, "__file__", None)):
            found[name] = [str(file), str(getattr(module, "__package__", None) or "")]
    return found


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while True:
        yield env
        inner = getattr(env, "env", None)
        if not isinstance(inner, gymnasium.Env):
            return
        env = inner


def _hashes(env: gymnasium.Env, shown: Any) -> dict[str, str]:
    """Of what is seen, and of what is so."""
    pictures = {name: drawn(name, picture) for name, picture in shown["images"].items()}
    numbers = {"state": np.asarray(shown.get("state", ())), **physics_of(env)}
    return {"frame": _hash(pictures), "state": _hash(numbers)}


def physics_of(env: gymnasium.Env) -> Mapping[str, np.ndarray]:
    """MuJoCo's positions and velocities, where the environment, or something that it has, has them."""
    inner = env.unwrapped
    if isinstance(inner, Elsewhere):
        return inner.physics()
    for owner in (inner, *vars(inner).values()):
        data = getattr(owner, "data", None)
        if hasattr(data, "qpos") and hasattr(data, "qvel"):
            return {"positions": np.array(data.qpos), "velocities": np.array(data.qvel)}  # pyright: ignore[reportOptionalMemberAccess]
    return {}


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    total = sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}".encode() + b"\0" + array.tobytes())
    return total.hexdigest()[:_DIGITS]


def renderer_here() -> str | None:
    """OpenGL's vendor, renderer and version in the context where the last picture was drawn, where MuJoCo is imported."""
    if not {"OpenGL", "mujoco"} <= sys.modules.keys():
        return None
    with suppress(Exception):  # each backend fails with a type of its own where no context is current
        from OpenGL import GL

        said = [GL.glGetString(name) for name in (GL.GL_VENDOR, GL.GL_RENDERER, GL.GL_VERSION)]
        return ", ".join(part.decode() for part in said if part) or None
    return None
