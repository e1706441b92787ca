"""A policy as LeRobot calls it (lerobot 0.6.1, `PreTrainedPolicy`): what the plug-ins for local and remote policies share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    policy_action_to_transition,
    transition_to_policy_action,
)
from torch import Tensor

from vla_tune.execution import AsTrained, Player
from vla_tune.schema import Contract, Embodiment, Observation, Policy

_TRAINED_ELSEWHERE = "is trained by scripts/train.py of vla-tune: LeRobot's tools only run it."


@dataclass
class Deployed:
    """What the configurations of both policies answer; they inherit from `PreTrainedConfig` too."""

    action_feature_names: list[str] | None = None
    """The action's dimensions as the robot names them, in the policy's order."""

    observation_delta_indices = None
    action_delta_indices = None
    reward_delta_indices = None

    def get_optimizer_preset(self) -> Any:
        """Refused."""
        raise NotImplementedError(f"This policy {_TRAINED_ELSEWHERE}")

    def get_scheduler_preset(self) -> Any:
        """Refused."""
        raise NotImplementedError(f"This policy {_TRAINED_ELSEWHERE}")

    def validate_features(self) -> None:
        """The contract does."""


class DeployedPolicy:
    """Plays `policy`'s chunks; for a class that inherits from `PreTrainedPolicy` too.

    A new chunk is asked for after as many actions as the contract says. Images, prompt and statistics are the policy's own.
    """

    def __init__(self, config: Any, policy: Policy, contract: Contract) -> None:
        super().__init__(config)  # pyright: ignore[reportCallIssue]
        self.policy, self.contract = policy, contract
        self._players: list[Player] = []

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, *, config: Any = None, **_: Any) -> Any:
        """What the folder's configuration describes; there is no `model.safetensors` beside it."""
        from lerobot.configs import PreTrainedConfig

        config = PreTrainedConfig.from_pretrained(pretrained_name_or_path) if config is None else config
        config.pretrained_path = Path(pretrained_name_or_path)
        return cls(config).eval()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    def reset(self) -> None:
        """A new episode begins."""
        self._players.clear()
        self.policy.reset()

    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Float[Tensor, "B T A"]:
        """The next T actions, in robot units.

        Raises:
            ValueError: something that the contract asks for is not in the batch.
        """
        return torch.from_numpy(self.policy.act(observations_in(batch, self.contract.embodiment)))

    def select_action(self, batch: dict[str, Any], **_: Any) -> Float[Tensor, "B A"]:
        """The next action of each row, as an evaluation with `execution=as_trained` plays it."""
        if not self._players or self._players[0].needs_chunk:
            self._look(self.predict_action_chunk(batch).numpy())
        return torch.from_numpy(np.stack([player.next() for player in self._players]))

    def _look(self, chunks: Float[np.ndarray, "B T A"]) -> None:
        if len(self._players) != len(chunks):
            execution = AsTrained().under(self.contract)
            self._players = [Player(execution.timeline(self.contract.embodiment)) for _ in chunks]
        for player, chunk in zip(self._players, chunks, strict=True):
            player.add(chunk)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Refused."""
        raise NotImplementedError(f"This policy {_TRAINED_ELSEWHERE}")

    def get_optim_params(self) -> Any:
        """Refused."""
        raise NotImplementedError(f"This policy {_TRAINED_ELSEWHERE}")


def observations_in(batch: Mapping[str, Any], embodiment: Embodiment) -> list[Observation]:
    """What a LeRobot batch shows: images float [B 3 H W] in [0, 1], the state [B S] if there is one, and `task` as B sentences.

    Raises:
        ValueError: a key of the contract is missing, or there is no sentence for each row.
    """
    keys = [*([embodiment.state_key] if embodiment.state else []), *(camera.key for camera in embodiment.cameras)]
    if missing := [key for key in keys if key not in batch]:
        raise ValueError(f"the policy needs {', '.join(missing)}; the batch has {', '.join(sorted(map(str, batch)))}: rename it.")
    images = {camera.role: _bytes(batch[camera.key]) for camera in embodiment.cameras}
    none = np.zeros((len(next(iter(images.values()))), 0), np.float32)
    states = batch[embodiment.state_key].float().cpu().numpy() if embodiment.state else none
    sentences = _sentences(batch.get("task"), rows=len(states))
    return [
        Observation({role: rows[index] for role, rows in images.items()}, state, sentences[index])
        for index, state in enumerate(states)
    ]


def plain_processors(config: Any, dataset_stats: Any = None) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """LeRobot's pipelines before and after the policy: names, batch axis and device, no numbers."""
    here = DeviceProcessorStep(device="cpu")
    before = PolicyProcessorPipeline(
        steps=[RenameObservationsProcessorStep(rename_map={}), AddBatchDimensionProcessorStep(), here], name="policy_preprocessor"
    )
    after = PolicyProcessorPipeline(
        steps=[here],
        name="policy_postprocessor",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after


def _bytes(images: Tensor) -> np.ndarray:
    """The pixels that LeRobot divided by 255, exactly."""
    rows = images if images.dtype == torch.uint8 else (255 * images.float()).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rows.permute(0, 2, 3, 1).cpu().numpy())


def _sentences(task: Any, *, rows: int) -> Sequence[str]:
    sentences = [task] * rows if isinstance(task, str) else list(task or [])
    if len(sentences) != rows or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        raise ValueError(f"the batch's task is {task!r}: a vision-language-action policy needs an instruction, e.g. --task=...")
    return sentences
