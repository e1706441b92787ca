"""The tabletop behind LeRobot's `Robot`."""

import logging
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from lerobot.robots import Robot

import envs  # noqa: F401  (registers the environment)
from lerobot_robot_vla_tune_sim.config_vla_tune_sim import VlaTuneSimConfig
from vla_tune.control.simulated import SimulatedRobot
from vla_tune.schema import Contract, Group, dimension_names

_log = logging.getLogger(__name__)
_ID = "vla_tune/Tabletop-v0"


class VlaTuneSim(Robot):
    """Steps once for each action that it is sent.

    LeRobot passes only keys that end with `.pos` or `.vel`: positions are `.pos`, motions per tick are `.vel`.

    Raises:
        ValueError: no contract is named.
        FileNotFoundError: there is none in the folder.
    """

    config_class = VlaTuneSimConfig
    name = "vla_tune_sim"

    def __init__(self, config: VlaTuneSimConfig) -> None:
        super().__init__(config)
        if not config.contract:
            raise ValueError(
                "--robot.contract=<folder with contract.json> is missing: it says what the numbers of this robot mean."
            )
        self._body = Contract.load(Path(config.contract)).embodiment
        self._robot = SimulatedRobot(lambda **options: gymnasium.make(_ID, **options), config.task, self._body)
        self._seed, self._connected = config.seed, False
        self._state, self._action = _keys(self._body.state), _keys(self._body.action)
        self._cameras = {camera.role: camera.key.rpartition(".")[2] for camera in self._body.cameras}

    @property
    def observation_features(self) -> dict[str, Any]:
        """The state's dimensions, and pictures [H W 3]."""
        sizes = {self._cameras[camera.role]: (camera.height, camera.width, 3) for camera in self._body.cameras}
        return dict.fromkeys(self._state, float) | sizes

    @property
    def action_features(self) -> dict[str, type]:
        """The action's dimensions."""
        return dict.fromkeys(self._action, float)

    @property
    def is_connected(self) -> bool:
        """Whether an episode is under way."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Begins an episode, and logs its instruction, to be given as `--task`."""
        self._robot.connect()
        self._robot.start(self._seed)
        self._connected = True
        _log.info("%s: the instruction is %r", self.name, self.instruction)

    @property
    def instruction(self) -> str:
        """Of the episode."""
        return self._robot.observe().observation.instruction

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, Any]:
        """What the last step showed."""
        shown = self._robot.observe().observation
        images = {self._cameras[role]: image for role, image in shown.images.items()}
        return dict(zip(self._state, shown.state.tolist(), strict=True)) | images

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Steps, and returns what was sent; a position of the state is no action, and does nothing."""
        if not set(self._action) <= action.keys():
            _log.warning("%s moves by %s, not by %s: nothing was done", self.name, ", ".join(self._action), ", ".join(action))
            return {}
        self._robot.send(np.array([action[key] for key in self._action], np.float32))
        return action

    def disconnect(self) -> None:
        """Ends the episode, and logs whether it succeeded."""
        _log.info("%s: success %s", self.name, self._robot.success)
        self._robot.disconnect()
        self._connected = False


def _keys(groups: tuple[Group, ...]) -> list[str]:
    kinds = [".vel" if group.representation == "delta" else ".pos" for group in groups for _ in range(group.dimension)]
    return [name if name.endswith(kind) else name + kind for name, kind in zip(dimension_names(groups), kinds, strict=True)]
