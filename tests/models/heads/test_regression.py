from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.data.collate import Batch
from vla_tune.models.base import RegressionVLA
from vla_tune.models.capabilities import GivesLogProbabilities, Launchable
from vla_tune.models.graphs import Graphed
from vla_tune.models.heads import HEADS, RegressionHead
from vla_tune.models.heads.base import head_of
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.inputs import space_of
from vla_tune.models.openvla.location import Located
from vla_tune.tokens import BinTokenizer, uniform_edges


@pytest.fixture
def model(tiny_config_record: OpenVLAConfig) -> OpenVLA:
    torch.manual_seed(0)
    return OpenVLA(OpenVLAConfig.from_dict(tiny_config_record.to_dict() | {"action_head_dimension": 4})).eval()


@pytest.fixture
def head(tiny_head) -> RegressionHead:
    return RegressionHead(tiny_head.space)


def test_the_contract_names_it(tiny_contract, model: OpenVLA):
    space = space_of(tiny_contract, stop_id=2)
    chosen = head_of(HEADS["regression"], space, decoding="regression")
    assert isinstance(chosen, RegressionHead)
    assert isinstance(chosen.over(model), Launchable)
    assert not isinstance(chosen.over(model), GivesLogProbabilities)
    assert chosen.over(model).replayable
    with pytest.raises(ValueError, match="the contract says decoding='parallel', the head is 'regression'"):
        head_of(RegressionHead, space, decoding="parallel")


@torch.no_grad()
def test_the_loss_is_the_mean_absolute_error_within_the_episode(model: OpenVLA, head: RegressionHead, tiny_batch: Batch):
    loss, predicted = head.over(model).loss(tiny_batch), torch.from_numpy(head.over(model).act(tiny_batch))
    assert tiny_batch.actions is not None
    errors = (predicted - tiny_batch.actions).abs()
    by_row = [errors[row][tiny_batch.action_mask[row]] for row in range(3)]
    assert [len(row) for row in by_row] == [16, 12, 8]
    torch.testing.assert_close(loss.per_label, torch.cat(by_row))
    assert loss.rows.tolist() == [0] * 16 + [1] * 12 + [2] * 8
    assert loss.correct is None
    spoiled = replace(tiny_batch, actions=tiny_batch.actions.where(tiny_batch.action_mask, 99.0))
    assert torch.equal(head.over(model).loss(spoiled).per_label, loss.per_label)


@torch.no_grad()
def test_an_action_is_read_from_its_own_placeholders(model: OpenVLA, head: RegressionHead, tiny_batch: Batch):
    """The A states before the placeholders of action t, time-major, go through the head as one row."""
    hidden, predicted = model(tiny_batch), head.over(model).act(tiny_batch)
    assert predicted.shape == (3, 4, 4)
    assert predicted.dtype == np.float32
    for row in range(3):
        first = int(tiny_batch.prompt_length[row])
        for step in range(4):
            states = hidden[row, first - 1 + 4 * step : first + 3 + 4 * step]
            np.testing.assert_allclose(model.action_head(states[None])[0, 0], predicted[row, step], rtol=0, atol=1e-6)


@torch.no_grad()
def test_location_codes_stand_before_the_chunk(model: OpenVLA, head: RegressionHead, tiny_batch: Batch):
    behind = RegressionHead(replace(head.space, tokenizer=Located(head.space.tokenizer, 2), horizon=3))
    hidden, first = model(tiny_batch), int(tiny_batch.prompt_length[0])
    expected = model.action_head(hidden[:1, first + 1 : first + 13])
    np.testing.assert_allclose(behind.over(model).act(tiny_batch)[:1], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_pass_can_be_launched_at_once(model: OpenVLA, head: RegressionHead, tiny_batch: Batch):
    whole = head.over(model)
    assert np.array_equal(whole.actions(Graphed(whole.raw)(tiny_batch)), whole.act(tiny_batch))


def test_only_what_is_within_the_episode_moves_the_head(model: OpenVLA, head: RegressionHead, tiny_batch: Batch):
    head.over(model).loss(tiny_batch).loss.backward()
    missing = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not [name for name in missing if "action_head" in name]
    assert "language_model.lm_head.weight" in missing, "no vocabulary is computed"


class Varying(BinTokenizer):
    """Codes of varying number."""

    @property
    def free(self) -> bool:
        return False


class Other:
    """A backbone of another kind."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError

    vocabulary_logits = prefill = advance = __call__


def test_mistakes(model: OpenVLA, head: RegressionHead, tiny_model: OpenVLA, tiny_batch: Batch):
    with pytest.raises(ValueError, match="no action head: train with head=regression"):
        head.over(tiny_model).act(tiny_batch)
    with pytest.raises(ValueError, match="Other has no action head, which regression needs"):
        head.over(Other()).act(tiny_batch)
    assert isinstance(model, RegressionVLA)
    with pytest.raises(ValueError, match="chunks of 4 actions, the contract says 1"):
        RegressionHead(replace(head.space, horizon=1)).over(model).loss(tiny_batch)

    with pytest.raises(ValueError, match="leave tokens at bins"):
        RegressionHead(replace(head.space, tokenizer=Varying(uniform_edges(256), 512)))
