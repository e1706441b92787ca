"""A LIBERO task as a gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float64, UInt8

from envs.libero.drawing import Default, Drawing, check_size, picture
from envs.libero.simulation import CONTROL_HZ, Simulation
from envs.libero.suites import other_sentence, sentences

_FIRST_CAMERA = "agentview"
_SHOWN = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "robot0_joint_pos": 7}


class Libero(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A task of LIBERO or LIBERO-PRO: a Panda arm at a table, 20 actions a second.

    **Action**, `Box` float32 [7] in [-1, 1]: moves of the hand along x, y, z (1 is 0.05 m), turns about them (1 is 0.5 rad), and
    the gripper: negative opens, positive closes.

    **Observation**, `Dict` of float64, by LIBERO's own names: `robot0_eef_pos` [3] in m; `robot0_eef_quat` [4], xyzw, of the hand;
    `robot0_gripper_qpos` [2] in m; `robot0_joint_pos` [7] in rad. Pictures are not in it: `picture(camera)` draws one when it is
    asked for.

    **Start**: `reset(seed=...)` draws one as the stored ones were drawn; `put` begins in a given one, such as those of
    `stored_states`. **Info** has `success`, which ends the episode, as in LIBERO's own environments, with a `reward` of 1.
    **Metadata** has the `tasks` of the suite.

    Environments of one task in a process share model, meshes and textures.

    Args:
        suite: Such as `libero_object`.
        task: The place of the task in the suite, as a word: "0".
        drawing: How pictures are drawn (`envs.libero.drawing`).
        size: Of the pictures, in pixels.
        render_mode: None, or "rgb_array" for upright pictures of the camera that looks at the arm.

    Raises:
        ValueError: there is no such suite or task, it lacks files, or the extra is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ, "control_hz": CONTROL_HZ}  # noqa: RUF012

    def __init__(
        self, *, suite: str, task: str, drawing: Drawing | None = None, size: int = 256, render_mode: str | None = None
    ) -> None:
        index = _index(suite, task)
        self.metadata = {**self.metadata, "tasks": [str(number) for number in range(len(sentences(suite)))]}
        self.simulation = Simulation(suite, index)
        check_size(self.simulation, size)
        self.sentence, self.other_sentence = self.simulation.task.sentence, other_sentence(suite, index)
        self.render_mode, self._size, self._drawing = render_mode, size, drawing or Default()
        self._joints = self.simulation.arm_joints
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (count,), np.float64) for name, count in _SHOWN.items()}
        )

    @property
    def stored_states(self) -> Float64[np.ndarray, "n S"]:
        """The starts that come with the benchmark."""
        return self.simulation.stored

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins where things were just put down; nothing has settled yet."""
        super().reset(seed=seed)
        self.simulation.put(self.simulation.draw_start(self.np_random))
        return self._shown(), {"success": self.simulation.success()}

    def put(self, state: Float64[np.ndarray, " S"]) -> dict[str, Any]:
        """Begins an episode in a state: time, positions, velocities."""
        self.simulation.put(state)
        return self._shown()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Acts for a twentieth of a second."""
        self.simulation.step(action)
        success = self.simulation.success()
        return self._shown(), float(success), success, False, {"success": success}

    def picture(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """What `agentview`, `robot0_eye_in_hand` or another camera sees now, upside down as robosuite gives it."""
        return picture(self.simulation, camera, self._size, self._drawing)

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride] gymnasium says a type variable
        """The first camera's picture, the right way up."""
        return self.picture(_FIRST_CAMERA)[::-1, ::-1].copy() if self.render_mode == "rgb_array" else None

    def _shown(self) -> dict[str, np.ndarray]:
        simulation, data = self.simulation, self.simulation.data
        values = (
            data.site_xpos[simulation.site],
            np.roll(data.xquat[simulation.hand], -1),  # MuJoCo's begin with w
            data.qpos[simulation.finger_joints],
            data.qpos[self._joints],
        )
        return {name: value.copy() for name, value in zip(_SHOWN, values, strict=True)}


def _index(suite: str, task: str) -> int:
    known = sentences(suite)
    if not (str(task).isdecimal() and int(task) < len(known)):
        there = "; ".join(f"{number}: {sentence}" for number, sentence in enumerate(known[:10]))
        more = f"; and {len(known) - 10} more" if len(known) > 10 else ""
        raise ValueError(f"{suite} has no task {task!r}: say the place of a task in the suite. It has {there}{more}.")
    return int(task)
