"""Recorded actions, replayed in the environment: whether data and environment mean the same by an action."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np
from jaxtyping import Float

from vla_tune.check.finding import Finding
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.starts import STARTS_FILE, Start, read_starts
from vla_tune.environment import told, without_pictures

PROBE = "replay"
_NEAR = 1e-3
"""Of a state's range: what rounding and a simulator's last digits come to."""
_BESIDE = 0.05
"""Of a state's range: what a simulator's last digits may grow to on the way."""
_ENOUGH = 0.8
"""Share of the replayed episodes that must succeed; all of them did when they were recorded."""


@dataclass(frozen=True)
class _Replayed:
    began: float
    """How far the environment's first state is from the recorded one, as a share of its range."""
    left: float
    """The same at the worst step of the way."""
    step: int
    """At which the way was first left; the episode's length if it was not."""
    success: bool


def replay(demonstrations: Demonstrations, make_env: Callable[[str | None], gymnasium.Env], *, count: int) -> Finding:
    """Up to `count` episodes that were recorded without noise, from their own starts.

    `make_env` makes the environment of a task, by the name in an episode's start; of None where that names none. A policy cannot
    be better than its data: if these actions do not succeed here, units, control mode, rate or the gripper's sign are not what
    they were when the data was recorded.
    """
    starts = read_starts(demonstrations.root)
    exact = [episode for episode, start in enumerate(starts) if start.exact and episode in demonstrations.episodes]
    if not exact or count < 1:
        why = "whose actions were executed without noise" if starts else f"whose start is known ({STARTS_FILE} is missing)"
        return Finding(PROBE, True, f"not tried: there is no held-out episode {why}" if count else "not tried: none was asked for")
    chosen = [exact[place] for place in np.unique(np.linspace(0, len(exact) - 1, min(count, len(exact))).astype(int))]
    of_task: dict[str | None, list[int]] = {}
    for episode in chosen:
        of_task.setdefault(starts[episode].options.get("task"), []).append(episode)
    return _found([one for task, of in of_task.items() for one in _in_one(demonstrations, of, starts, partial(make_env, task))])


def _in_one(
    demonstrations: Demonstrations, episodes: Sequence[int], starts: Sequence[Start], make_env: Callable[[], gymnasium.Env]
) -> list[_Replayed]:
    """Episodes of one task."""
    env = make_env()
    try:
        return [_replayed(demonstrations, episode, starts[episode], env) for episode in episodes]
    finally:
        env.close()


def _found(replayed: list[_Replayed]) -> Finding:
    began, left = max(one.began for one in replayed), max(one.left for one in replayed)
    succeeded = sum(one.success for one in replayed)
    said = f"{succeeded} of {len(replayed)} recorded episodes succeed in the environment"
    if not began <= _NEAR:
        return Finding(PROBE, False, f"{said}; it begins {100 * began:.1f} % of a state's range elsewhere: another environment.")
    if succeeded >= _ENOUGH * len(replayed) and left <= _BESIDE:
        return Finding(PROBE, True, f"{said}, at most {100 * left:.2g} % of a state's range beside the recorded way")
    if left <= _BESIDE:
        return Finding(PROBE, False, f"{said}, though on the recorded way: data and environment call other things a success.")
    first = min(one.step for one in replayed)
    return Finding(
        PROBE,
        False,
        f"{said}; the way is left from step {first} on, by {100 * left:.0f} % of a state's range: data and environment differ in "
        "an action's units, control mode, rate or the gripper's sign.",
    )


def _replayed(demonstrations: Demonstrations, episode: int, start: Start, env: gymnasium.Env) -> _Replayed:
    frames, body = demonstrations.frames, demonstrations.embodiment
    rows = np.flatnonzero(frames.episode == episode)
    span = np.ptp(frames.state, axis=0)
    shown, _ = env.reset(seed=start.seed, options=dict(start.options) or None)
    off, success = [_off(without_pictures(shown, body).state, frames.state[rows[0]], span)], False
    for here, there in zip(rows, [*rows[1:], None], strict=True):
        shown, _, terminated, truncated, info = env.step(frames.actions[here])
        success |= bool(told(info))
        if there is not None:
            off.append(_off(without_pictures(shown, body).state, frames.state[there], span))
        if terminated or truncated:
            break
    away = np.flatnonzero(~(np.array(off) <= _NEAR))
    return _Replayed(off[0], max(off), int(away[0]) if len(away) else len(off), success)


def _off(seen: Float[np.ndarray, " S"], recorded: Float[np.ndarray, " S"], span: Float[np.ndarray, " S"]) -> float:
    return float((np.abs(seen - recorded) / np.where(span > 0, span, 1.0)).max(initial=0.0))
