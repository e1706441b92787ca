"""A policy for LeRobot's loops plays its chunks as an evaluation does."""

from dataclasses import replace

import numpy as np
import torch

from vla_tune.export.lerobot_policy import DeployedPolicy
from vla_tune.schema import Contract


class Pretrained:
    """What LeRobot's class needs of its constructor."""

    def __init__(self, config: object) -> None:
        self.config = config


class Deployed(DeployedPolicy, Pretrained):
    """As LeRobot makes it."""


class Counting:
    """Action k of the n-th chunk of row r is (n, k, r, 0)."""

    def __init__(self, horizon: int) -> None:
        self.horizon, self.asked = horizon, 0

    def act(self, observations):
        rows = len(observations)
        chunk = np.zeros((rows, self.horizon, 4), np.float32)
        chunk[..., 0], chunk[..., 1], chunk[..., 2] = self.asked, np.arange(self.horizon), np.arange(rows)[:, None]
        self.asked += 1
        return chunk

    def reset(self) -> None: ...


def test_as_many_actions_of_a_chunk_are_played_as_the_contract_says(tiny_contract: Contract):
    body = tiny_contract.embodiment
    pictures = {camera.key: torch.zeros(2, 3, camera.height, camera.width) for camera in body.cameras}
    batch = pictures | {body.state_key: torch.zeros(2, body.state_dimension), "task": ["lift", "push"]}
    for steps in (1, 3, 4):
        policy = Counting(tiny_contract.horizon)
        deployed = Deployed(None, policy, replace(tiny_contract, execute_steps=steps))
        played = torch.stack([deployed.select_action(batch) for _ in range(7)])
        assert played.dtype == torch.float32
        assert played[:, 0, :2].tolist() == [[tick // steps, tick % steps] for tick in range(7)]
        assert played[:, :, 2].tolist() == [[0, 1]] * 7
        deployed.reset()
        asked = policy.asked
        alone = {key: value[:1] for key, value in batch.items()}
        assert deployed.select_action(alone).tolist() == [[asked, 0, 0, 0]]  # another number of rows, after a reset
