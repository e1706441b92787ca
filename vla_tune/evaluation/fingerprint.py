"""What shows that two evaluations had the same world before them: who drew it, and how an episode began there."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from vla_tune.evaluation.environments import MakeEnv, Vectorize, in_turn
from vla_tune.evaluation.episodes import episode_seed
from vla_tune.schema import Embodiment
from vla_tune.workers.code import ELSEWHERE, code_of

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
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What of the environment's is plain data: how many starts it has stored, which tasks it has."""


def look_at(make_env: MakeEnv, *, suite: str, task: str, seed: int, embodiment: Embodiment, vectorize: Vectorize = in_turn) -> Look:
    """Make the environment, where `vectorize` does, begin episode 0 of an evaluation twice, and close it."""
    with closing(vectorize(make_env, 1, embodiment)) as pool:
        code = code_of(make_env, pool.behind())
        start = pool.start(seed=episode_seed(seed, suite=suite, task=task, episode=0), episode=0)
    marks = {name: value if start.again[name] == value else VARIES for name, value in start.first.items()}
    renderer = start.renderer if {"mujoco", f"mujoco{ELSEWHERE}"} & code["packages"].keys() else None
    return Look(info=start.info, code=code, fingerprint={"renderer": renderer, **marks}, metadata=start.metadata)


def code_seen(make_env: MakeEnv, *, embodiment: Embodiment, vectorize: Vectorize) -> dict[str, Any]:
    """`code_of` an environment that is made where `vectorize` does."""
    with closing(vectorize(make_env, 1, embodiment)) as pool:
        return code_of(make_env, pool.behind())


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
