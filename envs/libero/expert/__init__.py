"""A scripted expert for LIBERO's tasks, from the privileged state of the simulation."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import mujoco
import numpy as np
from jaxtyping import Float, Float32

from envs.libero.expert.goals import next_action
from envs.libero.expert.grasps import Way, choose
from envs.libero.expert.layout import Layout
from envs.libero.expert.scene import Scene
from envs.libero.simulation import Simulation
from envs.libero.worlds import World

_STARTS = 10
"""Stored starts over which a way of taking a thing is chosen."""


class _Plan:
    """What is settled once for a task: ids, and the way in which each thing is taken."""

    def __init__(self, simulation: Simulation) -> None:
        self.layout = Layout.of(simulation)
        self._ways: dict[str, Way] = {}

    def way(self, simulation: Simulation, thing: str, target: Float[np.ndarray, "3"] | None) -> Way:
        """The way in which a thing is taken; it is chosen when it is first asked for, and kept.

        The fixtures stand meanwhile where they stood when the world was built, so that the choice does not depend on the episode.
        """
        if thing not in self._ways:
            states = simulation.stored[:: max(len(simulation.stored) // _STARTS, 1)]
            simulation.world.lend(simulation.data, simulation.world.placement)
            self._ways[thing] = choose([self._start(state) for state in states], thing, target)
            assert simulation.model is self.layout.model  # asking for it stands the fixtures back
        return self._ways[thing]

    def _start(self, state: Float[np.ndarray, " S"]) -> Scene:
        data = mujoco.MjData(self.layout.model)
        data.qpos[:] = state[1 : 1 + self.layout.model.nq]
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
    action = next_action(scene, simulation.goals, lambda thing, target: plan.way(simulation, thing, target))
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
