"""What does not change while a LIBERO task runs: which bodies and geoms belong to which thing, and to the hand."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from dataclasses import dataclass
from typing import Any, Self

import mujoco
import numpy as np
from jaxtyping import Float, Int

_CUBE = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(8, 3).astype(float)
_HAND = "gripper0_"


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Ids into one MuJoCo model, by the names that the problem gives its things."""

    model: mujoco.MjModel
    problem: Any
    site: int
    """Of the grip site: between the finger tips, x along the closing direction, z out of the palm."""
    fingers: tuple[int, ...]
    """Actuators of the two fingers."""
    finger_joints: tuple[int, ...]
    """Their indices in `qpos`."""
    finger_velocities: tuple[int, ...]
    """Their indices in `qvel`."""
    bodies: dict[str, int]
    """Thing or fixture -> its root body."""
    geoms: dict[str, Int[np.ndarray, " _"]]
    """Thing or fixture -> the geoms that collide."""
    finger_geoms: tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]
    base: Float[np.ndarray, "2"]
    """Of the arm, x and y in the world, m."""

    @classmethod
    def of(cls, simulation: Any) -> Self:
        """Look everything up in a simulation (`envs.libero.simulation.Simulation`)."""
        model, problem = simulation.model, simulation.problem
        solid = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
        things = {**problem.objects_dict, **problem.fixtures_dict}
        bodies = {name: model.body(thing.root_body).id for name, thing in things.items() if hasattr(thing, "root_body")}
        names = [model.geom(geom).name for geom in range(model.ngeom)]
        fingers = [[g for g, name in enumerate(names) if name.startswith(f"{_HAND}finger{k}") and solid[g]] for k in (1, 2)]
        return cls(
            model=model,
            problem=problem,
            site=simulation.site,
            fingers=tuple(simulation.fingers),
            finger_joints=tuple(simulation.finger_joints),
            finger_velocities=tuple(simulation.finger_velocities),
            bodies=bodies,
            geoms={name: _below(model, body, solid) for name, body in bodies.items()},
            finger_geoms=(np.array(fingers[0]), np.array(fingers[1])),
            base=simulation.data.xpos[model.body("robot0_base").id][:2].copy(),
        )

    def corners(self, geoms: Int[np.ndarray, " _"]) -> Float[np.ndarray, "_ 8 3"]:
        """Corners (m) of the box around each geom, in the geom's frame."""
        box = self.model.geom_aabb[geoms]
        return box[:, None, :3] + _CUBE * box[:, None, 3:]

    def owner(self, place: str) -> str:
        """The thing that a region belongs to: itself where it is a thing, "" where it is a spot of the table."""
        if place in self.bodies:
            return place
        return self.problem.object_sites_dict[place].parent_name or ""

    def joint(self, place: str) -> int | None:
        """The joint that opens or turns at a region or fixture, or None."""
        of = {**self.problem.fixtures_dict, **self.problem.object_sites_dict}.get(place)
        names = of.joints if of is not None else None
        return self.model.joint(names[0]).id if names else None


def _below(model: mujoco.MjModel, root: int, solid: np.ndarray) -> Int[np.ndarray, " _"]:
    """The solid geoms of a body and of everything that hangs on it."""
    family = np.zeros(model.nbody, bool)
    family[root] = True
    for body in range(root + 1, model.nbody):
        family[body] |= family[model.body_parentid[body]]
    return np.flatnonzero(family[model.geom_bodyid] & solid)
