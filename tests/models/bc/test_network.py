"""A behaviour cloner's sizes, its two verbs and what it reacts to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from vla_tune.data import build_pipeline
from vla_tune.data.collate import collate
from vla_tune.models.base import ActionModel
from vla_tune.models.bc import BCNetwork, Sizes
from vla_tune.models.bc.model import BCModel
from vla_tune.models.capabilities import Launchable
from vla_tune.models.forward import Forward
from vla_tune.models.liveness import check_liveness

ROBOTS = ["tabletop", "two_cameras", "without_state"]


def test_it_is_small(configuration):
    """Two cameras, a state of 8, chunks of 16 by 7: the sizes of `conf/model/bc.yaml`."""
    cfg = configuration("train", "model=bc")
    own = OmegaConf.to_container(cfg.model.sizes, resolve=True)
    assert isinstance(own, dict)
    sizes = Sizes(**own | {"cameras": 2, "state_dimension": 8, "action_dimension": 7, "horizon": 16})  # pyright: ignore[reportCallIssue]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in BCNetwork(sizes).parameters()) == 1_858_608


@pytest.mark.parametrize("robot", ROBOTS)
def test_it_sees_hears_and_acts_for_any_robot(robot: str, robots, contract_for, checkpoint_for, frames_of):
    contract = contract_for(robots[robot])
    body, checkpoint = contract.embodiment, checkpoint_for(contract.embodiment)
    interface = checkpoint.interface(contract)
    model, pipeline = interface.over(checkpoint.load(device="cpu")), build_pipeline(contract, interface)
    assert isinstance(model, ActionModel)
    assert isinstance(model, Launchable)
    samples = [pipeline(frame) for frame in frames_of(body)]
    assert samples[0]["pixel_values"].shape == (len(body.cameras), 3, 32, 32)
    forward = Forward(model, interface.pad_id)
    check_liveness(forward, pipeline, body)
    together, alone = forward.each(samples), [forward.each([sample])[0] for sample in samples]
    assert together[0].shape == (4, 4)
    np.testing.assert_allclose(together, alone, atol=1e-5)  # padding of shorter sentences changes nothing
    assert len(pipeline.robot_actions(together[0], samples[0])) == 4


def test_the_loss_is_the_mean_absolute_error_within_the_episode(robots, contract_for, checkpoint_for, frames_of):
    """Against a sum by hand, of the values whose mask is true."""
    contract = contract_for(robots["tabletop"])
    interface = checkpoint_for(contract.embodiment).interface(contract)
    model = interface.over(checkpoint_for(contract.embodiment).load(device="cpu"))
    batch = collate([build_pipeline(contract, interface)(frame) for frame in frames_of(contract.embodiment)], pad_id=0)
    said, loss = model.act(batch), model.loss(batch)
    assert batch.actions is not None
    assert batch.action_mask is not None
    wanted, mask = batch.actions.numpy(), batch.action_mask.numpy()
    by_hand = [abs(float(said[at] - wanted[at])) for at in np.ndindex(mask.shape) if mask[at]]
    assert 0 < len(by_hand) < mask.size
    assert loss.loss.item() == pytest.approx(np.mean(by_hand), rel=1e-6)
    assert loss.correct is None
    assert loss.rows.tolist() == np.argwhere(mask)[:, 0].tolist()
    with pytest.raises(ValueError, match="chunks of 4 actions, the contract says 8"):
        BCModel(model.network, 8).loss(batch)


def test_the_state_is_noisy_only_while_it_learns(robots, checkpoint_for):
    network = checkpoint_for(robots["tabletop"].embodiment).load(device="cpu")
    seen = torch.zeros(1, 1, 3, 32, 32), torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 4)
    assert torch.equal(network(*seen), network(*seen))
    network.train()
    assert not torch.equal(network(*seen), network(*seen))


def test_the_order_of_words_is_heard(robots, checkpoint_for):
    words = checkpoint_for(robots["tabletop"].embodiment).load(device="cpu").words
    one, other = torch.tensor([[3, 7, 11, 5]]), torch.tensor([[11, 7, 3, 5]])
    seen = torch.ones(1, 4, dtype=torch.bool)
    assert (words(one, seen) - words(other, seen)).abs().max() > 1e-3
    longer = torch.tensor([[3, 7, 11, 5, 99, 98]])
    torch.testing.assert_close(words(longer, torch.arange(6)[None] < 4), words(one, seen))


@pytest.mark.parametrize(("changed", "message"), [({"width": 12}, "multiple of 8"), ({"horizon": 0}, "horizon=0: 1 to 4096")])
def test_sizes_that_cannot_be_are_named(changed: dict, message: str, robots, checkpoint_for):
    sizes = checkpoint_for(robots["tabletop"].embodiment)._config.sizes
    with pytest.raises(ValueError, match=message):
        replace(sizes, **changed)
