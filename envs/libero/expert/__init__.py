"""A scripted expert for LIBERO's tasks, from the privileged state of the simulation."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Float64

from envs.libero.expert.fixtures import opened
from envs.libero.expert.goals import next_action
from envs.libero.expert.grasps import Way, choose
from envs.libero.expert.layout import Layout
from envs.libero.expert.scene import Scene
from envs.libero.simulation import Simulation
from envs.libero.worlds import World

_STARTS = 10
"""Stored starts over which a way of taking a thing is chosen."""
_OPENINGS, _OVERSHOOT = (0.13, 0.095), 0.015  # m, how far a drawer may be opened before, and what it runs on
_WIDER = 40.0  # how much a wide opening is worth, 1/m


class _Plan:
    """What is settled once for a task: ids, and the way in which each thing is taken."""

    def __init__(self, simulation: Simulation) -> None:
        self.layout = Layout.of(simulation)
        self._ways: dict[str, Way] = {}

    def way(self, simulation: Simulation, thing: str, target: Callable[[Scene], Float[np.ndarray, "3"]], joint: int | None) -> Way:
        """The way in which a thing is taken; it is chosen when it is first asked for, and kept.

        The fixtures stand meanwhile where they stood when the world was built, so that the choice does not depend on the episode.
        """
        if thing not in self._ways:
            states = simulation.stored[:: max(len(simulation.stored) // _STARTS, 1)]
            simulation.world.lend(simulation.data, simulation.world.placement)
            self._ways[thing] = self._choose(states, thing, target, joint)
            assert simulation.model is self.layout.model  # asking for it stands the fixtures back
        return self._ways[thing]

    def _choose(
        self, states: Float64[np.ndarray, "n S"], thing: str, target: Callable[[Scene], Float[np.ndarray, "3"]], joint: int | None
    ) -> Way:
        options = []
        for opening in _OPENINGS if joint is not None else (0.0,):
            way, cost = choose([self._start(state, joint, opening + _OVERSHOOT) for state in states], thing, target)
            options.append((cost + _WIDER * (max(_OPENINGS) - opening), replace(way, opening=opening)))
        return min(options, key=itemgetter(0))[1]

    def _start(self, state: Float[np.ndarray, " S"], joint: int | None, opening: float) -> Scene:
        model = self.layout.model
        data = mujoco.MjData(model)
        data.qpos[:] = state[1 : 1 + model.nq]
        if joint is not None:
            end, place = opened(model, joint), model.jnt_qposadr[joint]
            data.qpos[place] = np.sign(end) * np.clip(opening, abs(data.qpos[place]), abs(end))
        mujoco.mj_kinematics(self.layout.model, data)
        return Scene(self.layout, data)


_plans: WeakKeyDictionary[World, _Plan] = WeakKeyDictionary()


def libero_expert(env: Any) -> Float32[np.ndarray, "7"]:
    """What an expert does now in a LIBERO environment.

    A function of the present state: it can be asked in any state, after any disturbance. The way in which a thing is taken (the
    angle of the hand, the side of a rim) is the same in all episodes of a task, so that those who learn from it see one way.

    Args:
        env: Its `unwrapped.simulation` is an `envs.libero.simulation.Simulation`.

    Returns:
        LIBERO's own numbers in [-1, 1]: motion of the hand (x, y, z of the world; 1 is 5 cm), its turn (1 is 0.5 rad), and the
        gripper: -1 opens, +1 closes.

    Raises:
        ValueError: the task has a goal that the expert has no skill for.
    """
    simulation: Simulation = env.unwrapped.simulation
    if (plan := _plans.get(simulation.world)) is None:
        plan = _plans[simulation.world] = _Plan(simulation)
    scene = Scene(plan.layout, simulation.data)
    assert simulation.problem is plan.layout.problem  # asking for it lends it our state
    action = next_action(scene, simulation.goals, partial(plan.way, simulation))
    return np.clip(action, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Scripted:
    """`libero_expert` as the expert that an environment's YAML names."""

    def __call__(self, env: Any) -> Float32[np.ndarray, "7"]:
        """What it does now.

        Raises:
            ValueError: the task has a goal that it has no skill for.
        """
        return libero_expert(env)
