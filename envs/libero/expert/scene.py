"""What an expert sees: poses, extents and contacts of the things in one MuJoCo state. World frame, m and rad."""
# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.

from functools import cached_property

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from envs.libero.expert.layout import Layout

_NEAR = 0.25  # m, reach of the hand's hull around its middle
_UPRIGHT = 0.98  # cosine from which a box counts as standing upright
_STILL = 0.004  # m/s, slower fingers have stopped
_PRESSED = 0.004  # m, by which an opening exceeds what the fingers were told when they press
_SHUT = 0.004  # m, a smaller opening is a hand that holds nothing


class Scene:
    """One state of a simulation; it reads `data` and never changes it.

    Args:
        layout: Of the model.
        data: Its positions and contacts are up to date.
    """

    def __init__(self, layout: Layout, data: mujoco.MjData) -> None:
        self.layout, self.data, self.problem = layout, data, layout.problem

    # the hand
    @property
    def hand(self) -> Float[np.ndarray, "3"]:
        """The grip site."""
        return self.data.site_xpos[self.layout.site].copy()

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Axes of the hand as columns: closing direction, across, out of the palm."""
        return self.data.site_xmat[self.layout.site].reshape(3, 3).copy()

    @property
    def closing(self) -> Float[np.ndarray, "3"]:
        """The closing direction of the fingers, levelled."""
        level = self.axes[:, 0] * [1, 1, 0]
        return level / max(np.linalg.norm(level), 1e-6)

    @property
    def opening(self) -> float:
        """Distance between the fingers."""
        return float(np.abs(self.data.qpos[list(self.layout.finger_joints)]).sum())

    @property
    def _told(self) -> float:
        """The opening that the fingers were told; it goes from one end to the other in 8 steps."""
        return float(np.abs(self.data.ctrl[list(self.layout.fingers)]).sum())

    @property
    def begun(self) -> bool:
        """Whether the fingers have begun to close, or are not all open again."""
        return self._told < 0.078

    @property
    def shutting(self) -> bool:
        """Whether the fingers were told to come together past the middle of their range."""
        return self._told < 0.04

    # the things
    def position(self, thing: str) -> Float[np.ndarray, "3"]:
        """Origin of a thing's body, which the benchmark's predicates look at."""
        return self.data.xpos[self.layout.bodies[thing]].copy()

    def corners(self, geoms: Int[np.ndarray, " _"]) -> Float[np.ndarray, "_ 8 3"]:
        """Corners of the box around each geom."""
        turn = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        return self.data.geom_xpos[geoms][:, None] + np.einsum("nij,nkj->nki", turn, self.layout.corners(geoms))

    def points(self, thing: str) -> Float[np.ndarray, "_ 3"]:
        """Corners of everything solid of a thing."""
        return self.corners(self.layout.geoms[thing]).reshape(-1, 3)

    def box(self, thing: str) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Lowest and highest coordinates of a thing."""
        points = self.points(thing)
        return points.min(0), points.max(0)

    def centre_of_mass(self, thing: str) -> Float[np.ndarray, "3"]:
        """Of a thing's root body."""
        return self.data.xipos[self.layout.bodies[thing]].copy()

    def level_axes(self, geom: int) -> list[Float[np.ndarray, "3"]]:
        """The axes of a geom that are level: unit vectors, the thinnest extent first."""
        axes, half = self.data.geom_xmat[geom].reshape(3, 3), self.layout.model.geom_aabb[geom, 3:]
        return [axes[:, k] for k in np.argsort(half) if abs(axes[2, k]) < 0.2]

    def region(self, site: str) -> Float[np.ndarray, "3"]:
        """Middle of a region."""
        return self.data.site_xpos[self.layout.model.site(site).id].copy()

    # contacts
    def touching(self, geoms: Int[np.ndarray, " _"]) -> tuple[bool, bool]:
        """Which of the two fingers touch one of the geoms."""
        pairs = self.data.contact.geom[: self.data.ncon]
        own = np.isin(pairs, geoms)[:, ::-1]
        first, second = ((own & np.isin(pairs, finger)).any() for finger in self.layout.finger_geoms)
        return bool(first), bool(second)

    def held(self, thing: str) -> bool:
        """Whether both fingers press on it, or one touches it while the closing fingers have stopped on something."""
        touched = self.touching(self.layout.geoms[thing])
        speed = np.abs(self.data.qvel[list(self.layout.finger_velocities)]).max()
        stuck = speed < _STILL and self.opening > _SHUT and self.shutting
        pressed = self._told < max(self.opening - _PRESSED, 0.001)
        return (all(touched) and pressed) or (any(touched) and bool(stuck))

    def rests(self, thing: str) -> bool:
        """Whether it touches something else than the fingers."""
        pairs = self.data.contact.geom[: self.data.ncon]
        own = np.isin(pairs, self.layout.geoms[thing])
        return bool((own[:, ::-1] & ~own & ~np.isin(pairs, np.concatenate(self.layout.finger_geoms))).any())

    # what is in the way
    @cached_property
    def _solid(self) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
        """All geoms of all things, and the number of the thing that each belongs to."""
        groups = list(self.layout.geoms.values())
        owner = np.concatenate([np.full(len(g), k) for k, g in enumerate(groups)])
        return np.concatenate(groups), owner

    def _others(self, exclude: tuple[str, ...]) -> Int[np.ndarray, " _"]:
        geoms, owner = self._solid
        left_out = [k for k, name in enumerate(self.layout.geoms) if name in exclude]
        return geoms[~np.isin(owner, left_out)]

    def blocked(self, points: Float[np.ndarray, "P 3"], exclude: tuple[str, ...], margin: float = 0.006) -> int:
        """How many of the points lie inside things, or nearer to one than the margin."""
        return int(self._hits(points, exclude, margin).sum())

    def _hits(self, points: Float[np.ndarray, "P 3"], exclude: tuple[str, ...], margin: float = 0.0) -> Bool[np.ndarray, " P"]:
        return self.inside(points, self._others(exclude), margin)

    def inside(self, points: Float[np.ndarray, "P 3"], geoms: Int[np.ndarray, " _"], margin: float) -> Bool[np.ndarray, " P"]:
        """Which of the points lie inside some geoms, or nearer to one than the margin."""
        model = self.layout.model
        distance = np.linalg.norm(self.data.geom_xpos[geoms] - points.mean(0), axis=1)
        geoms = geoms[distance < model.geom_rbound[geoms] + _NEAR]
        if not len(geoms):
            return np.zeros(len(points), bool)
        turn, box = self.data.geom_xmat[geoms].reshape(-1, 3, 3), model.geom_aabb[geoms]
        local = np.einsum("nij,npi->npj", turn, points[None] - self.data.geom_xpos[geoms][:, None]) - box[:, None, :3]
        return (np.abs(local) < box[:, None, 3:] + margin).all(-1).any(0)

    def out_from_under(self, thing: str) -> Float[np.ndarray, "3"] | None:
        """A level direction away from what hangs over a thing, or None where it can be lifted."""
        points, middle = self.points(thing), np.mean(self.box(thing), axis=0)
        above = [self._hits(points + np.array([0.0, 0.0, height]), (thing,)) for height in (0.02, 0.04, 0.06)]
        hit = np.any(above, axis=0)
        if not hit.any():
            return None
        away = (middle - points[hit].mean(0)) * [1.0, 1.0, 0.0]
        return away / max(float(np.linalg.norm(away)), 1e-6)

    def ceiling(
        self, start: Float[np.ndarray, " _"], end: Float[np.ndarray, " _"], exclude: tuple[str, ...], radius: float
    ) -> float:
        """Highest top of the things within a radius (per axis) of the level line from start to end; -inf without any."""
        geoms, model = self._others(exclude), self.layout.model
        turn, half = self.data.geom_xmat[geoms].reshape(-1, 3, 3), model.geom_aabb[geoms, 3:]
        middle = self.data.geom_xpos[geoms] + np.einsum("nij,nj->ni", turn, model.geom_aabb[geoms, :3])
        line = start[:2] + np.linspace(0, 1, 9)[:, None] * (end[:2] - start[:2])
        away = line[None] - middle[:, None, :2]
        spread = np.einsum("nij,nj->ni", np.abs(turn), half)
        near = (np.abs(away) < spread[:, None, :2] + radius).all(-1)
        upright = (np.abs(turn[:, 2]).max(1) > _UPRIGHT)[:, None]
        own = np.einsum("nlj,njk->nlk", away, turn[:, :2])
        level = np.abs(turn[:, 2])[:, None, :] < 0.5
        near &= ~upright | ((np.abs(own) < half[:, None] + radius) | ~level).all(-1)
        near = near.any(1)
        return float((middle[near, 2] + spread[near, 2]).max()) if near.any() else -np.inf
