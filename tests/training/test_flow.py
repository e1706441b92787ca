"""A model of another kind, here outside the package: it samples its actions by flow matching, and speaks no code."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vla_tune.data import build_pipeline
from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel, Loss
from vla_tune.models.capabilities import Drawing, Launchable, Revealing, SpeaksCodes
from vla_tune.models.forward import Forward
from vla_tune.models.graphs import eager, graphed
from vla_tune.models.heads.codes import rows_of
from vla_tune.models.liveness import check_liveness
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Observation
from vla_tune.training.metrics import Chosen, Validation
from vla_tune.training.optim import adamw, constant


class Flow(nn.Module):
    """x' = v(x, t, what is seen), from noise at t = 0 to actions at t = 1 (Lipman et al., arXiv 2210.02747, eq. 23)."""

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.words, self.blind = nn.Embedding(576, 8), blind
        self.velocity = nn.Sequential(nn.Linear(16 + 1 + 8 + 3 + 4, 64), nn.ReLU(), nn.Linear(64, 16))

    @property
    def network(self) -> nn.Module:
        return self

    def loss(self, batch: Batch) -> Loss:
        noise, time = torch.randn_like(batch.actions), torch.rand(len(batch), 1, 1)
        velocity = self._velocity(noise.lerp(batch.actions, time), time, self._seen(batch))
        return Loss((velocity - (batch.actions - noise)).square()[batch.action_mask], None, rows_of(batch.action_mask))

    def noise(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(rows, 4, 4, generator=generator)

    def act(self, batch: Batch, *, noise: torch.Tensor, steps: int = 4) -> np.ndarray:
        actions, seen = noise, self._seen(batch)
        for step in range(steps):
            actions = actions + self._velocity(actions, torch.full((len(batch), 1, 1), step / steps), seen) / steps
        return actions.float().numpy()

    def _seen(self, batch: Batch) -> torch.Tensor:
        known = (torch.arange(batch.input_ids.shape[1]) < batch.prompt_length[:, None]).float()
        places = torch.arange(1, known.shape[1] + 1)  # the order of words counts
        words = (self.words(batch.input_ids) * (known / places)[..., None]).sum(dim=1)
        image = batch.pixel_values.mean(dim=(1, 3, 4))
        return torch.cat([words, image * (not self.blind), batch.state], dim=1)

    def _velocity(self, actions: torch.Tensor, time: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self.velocity(torch.cat([actions.flatten(1), time[:, :, 0], seen], dim=1)).unflatten(1, (4, 4))


@pytest.fixture
def flow() -> Flow:
    torch.manual_seed(0)
    return Flow()


@pytest.fixture
def policy(flow, tiny_contract, tiny_tokenizer) -> LocalPolicy:
    return LocalPolicy(
        flow, build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer)), tiny_contract, pad_id=512, rows=3
    )


def crowd(count: int) -> list[Observation]:
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count)]
    return [Observation({"front": image}, draw.uniform(0, 0.1, 4).astype(np.float32), "lift the red block") for image in images]


def test_it_says_its_loss_and_acts_and_no_more(flow) -> None:
    assert isinstance(flow, ActionModel)
    assert isinstance(flow, Drawing)
    assert not isinstance(flow, SpeaksCodes | Launchable | Revealing)


def test_it_learns(flow, tiny_samples, remember, run_training) -> None:
    result = run_training(
        flow,
        head=None,
        validation=Validation(tiny_samples, predicted=tiny_samples, first_frames=Chosen(tiny_samples, [0, 5])),
        optimizer=partial(adamw, learning_rate=1e-2, weight_decay=0.0),
        schedule=constant,
        steps=60,
        batch_size=10,
        max_gradient_norm=10.0,
        seed=0,
        loggers=[remember],
        validate_every=20,
        save_every=60,
        keep_last=1,
        resume_command="",
    )
    losses = [line["validation/loss"] for line in remember.lines.values() if "validation/loss" in line]
    assert losses[-1] < losses[0] < 2
    assert {"validation/action_error", "validation/first_frame_error"} < result.validation.keys()
    assert "validation/token_accuracy" not in result.validation


def test_what_it_draws_to_be_measured_is_the_same_each_time_and_nobody_elses(flow, tiny_samples) -> None:
    before, validation = torch.get_rng_state(), Validation(tiny_samples, predicted=tiny_samples)
    first = validation.measure(Forward(flow, 512), batch_size=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert validation.measure(Forward(flow, 512), batch_size=4) == first


def test_it_acts_alike_whatever_its_company(policy) -> None:
    together = policy.act(crowd(7))
    assert together.shape == (7, 4, 4)
    np.testing.assert_array_equal(np.concatenate([policy.act([one]) for one in crowd(7)]), together)
    assert len({chunk.tobytes() for chunk in together}) == 7
    assert policy.outside_mass(crowd(2)) is None


def test_it_is_launched_as_torch_does_or_not_at_all(policy) -> None:
    assert replace(policy, launch=partial(eager)).act(crowd(1)).shape == (1, 4, 4)
    with pytest.raises(ValueError, match=r"Flow computes no one tensor.*launch=eager"):
        replace(policy, launch=graphed)


def test_it_is_probed_by_its_actions(policy, tiny_contract) -> None:
    check_liveness(policy.forward, policy.pipeline, tiny_contract.embodiment)
    with pytest.raises(ValueError, match="the model is blind"):
        check_liveness(Forward(Flow(blind=True), 512), policy.pipeline, tiny_contract.embodiment)
