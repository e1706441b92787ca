"""What shows that two evaluations had the same world before them: who drew it, and how an episode began there."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import gymnasium
import numpy as np

from vla_tune.environment import EPISODE, drawn
from vla_tune.evaluation.code import code_of
from vla_tune.evaluation.environments import MakeEnv
from vla_tune.evaluation.episodes import episode_seed

VARIES = "varies"
"""In place of a hash, where the same seed led to two things; a GPU may draw with some noise."""
_DIGITS = 16
_START = ("frame", "state")
"""What belongs to one task; the rest of a fingerprint is an environment's."""

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the environment of a task tells before anybody acts in it."""

    info: Mapping[str, Any]
    """Of its start."""
    code: Mapping[str, Any]
    """`code_of` it."""
    fingerprint: Mapping[str, str | None]
    """`renderer`: OpenGL's vendor, renderer and version, None where MuJoCo draws nothing; `frame` and `state`: hashes of the
    pictures and of state and physics with which episode 0 begins, after any settling."""


def look_at(make_env: MakeEnv, *, suite: str, task: str, seed: int) -> Look:
    """Make the environment, begin episode 0 of an evaluation twice, and close it."""
    code = code_of(make_env)
    begin = {"seed": episode_seed(seed, suite=suite, task=task, episode=0), "options": {EPISODE: 0}}
    with closing(make_env()) as env:
        shown, info = env.reset(**begin)
        first = _start_of(env, shown)
        renderer = _opengl() if "mujoco" in code["packages"] else None
        again = _start_of(env, env.reset(**begin)[0])
    start = {name: value if again[name] == value else VARIES for name, value in first.items()}
    return Look(info=dict(info), code=code, fingerprint={"renderer": renderer, **start})


def told_in_a_row(look: Look, *, environment: str) -> dict[str, Any]:
    """The fingerprint of a row of results: flat, with the versions of packages and hashes of the environment's files and words."""
    packages = {f"packages.{name}": version for name, version in look.code["packages"].items()}
    words = {"environment": sha256(environment.encode()).hexdigest()[:_DIGITS], "sources": look.code["sources"][:_DIGITS]}
    return {**words, **packages, **look.fingerprint}


def mixed(rows: Sequence[Row]) -> dict[str, list[str]]:
    """In what the fingerprints of rows differ that should be one: name -> values. Rows of older versions have none."""
    found: dict[str, list[str]] = {}
    marks = [(row["task"], row["fingerprint"]) for row in rows if isinstance(row.get("fingerprint"), Mapping)]
    for environment in dict.fromkeys(mark.get("environment") for _, mark in marks):
        same = [(task, mark) for task, mark in marks if mark.get("environment") == environment]
        for name in dict.fromkeys(name for _, mark in same for name in mark):
            groups: dict[str, list[str]] = {}
            for task, mark in same:
                if name not in _START or name in mark:
                    groups.setdefault(task if name in _START else "", []).append(str(mark.get(name)))
            different = [list(dict.fromkeys(values)) for values in groups.values() if len(set(values)) > 1]
            found |= {name: different[0]} if different else {}
    return found


def of_several(rows: Sequence[Row]) -> dict[str, Any]:
    """Of the rows of several tasks, what their protocols and fingerprints have in common, for their mean."""
    marks = [row["fingerprint"] for row in rows if "fingerprint" in row]
    common = {name: value for name, value in (marks[0] if marks else {}).items() if all(mark.get(name) == value for mark in marks)}
    protocols = {row["protocol"] for row in rows if "protocol" in row}
    fingerprint = {name: value for name, value in common.items() if name not in _START}
    return ({"protocol": protocols.pop()} if len(protocols) == 1 else {}) | ({"fingerprint": fingerprint} if fingerprint else {})


def _start_of(env: gymnasium.Env, shown: Any) -> dict[str, str]:
    """Hashes of what is seen, and of what is so."""
    pictures = {name: drawn(name, picture) for name, picture in shown["images"].items()}
    numbers = {"state": np.asarray(shown.get("state", ())), **_physics(env)}
    return {"frame": _hash(pictures), "state": _hash(numbers)}


def _physics(env: gymnasium.Env) -> dict[str, np.ndarray]:
    """MuJoCo's positions and velocities, where the environment, or something that it has, has them."""
    inner = env.unwrapped
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


def _opengl() -> str | None:
    """Of the context in which the last picture was drawn."""
    if "OpenGL" not in sys.modules:
        return None
    with suppress(Exception):  # each backend fails with a type of its own where no context is current
        from OpenGL import GL

        said = [GL.glGetString(name) for name in (GL.GL_VENDOR, GL.GL_RENDERER, GL.GL_VERSION)]
        return ", ".join(part.decode() for part in said if part) or None
    return None
