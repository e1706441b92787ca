"""The robot."""

import numpy as np
from lerobot.robots import Robot

from lerobot_robot_pretend.config_pretend import PretendConfig

KEYS = ("shoulder.pos", "elbow.pos", "gripper.pos")


class Pretend(Robot):
    config_class = PretendConfig
    name = "pretend"

    def __init__(self, config: PretendConfig) -> None:
        super().__init__(config)
        self.limit, self.connected, self.sent = config.limit, False, []
        self.position = dict.fromkeys(KEYS, 0.0)

    @property
    def observation_features(self) -> dict:
        return dict.fromkeys(KEYS, float) | {"wrist": (4, 4, 3)}

    @property
    def action_features(self) -> dict:
        return dict.fromkeys(KEYS, float)

    @property
    def is_connected(self) -> bool:
        return self.connected

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate
        self.connected = True

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict:
        return self.position | {"wrist": np.zeros((4, 4, 3), np.uint8)}

    def send_action(self, action: dict) -> dict:
        self.position = {key: float(np.clip(value, -self.limit, self.limit)) for key, value in action.items()}
        self.sent.append(self.position)
        return self.position

    def disconnect(self) -> None:
        self.connected = False
