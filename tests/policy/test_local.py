from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vla_tune.models.forward import TEXT_BUCKET
from vla_tune.models.graphs import eager, graphed
from vla_tune.policy import NonFiniteActionsError, Policy, WatchedPolicy
from vla_tune.schema import Observation

LONG = "please push the green block to the left side of the table until it lies beside the yellow block"
bf16 = partial(torch.autocast, "cpu", torch.bfloat16)


class RawModel:
    """Hands out hidden states as they are: a difference in the last bit shows, where the most likely code would hide it."""

    def __init__(self, network):
        self.network = network
        self.shapes = []

    def loss(self, batch):
        raise NotImplementedError

    def act(self, batch):
        self.shapes.append(tuple(batch.input_ids.shape))
        assert torch.is_inference_mode_enabled()
        assert not self.network.training
        hidden = self.network(batch)[batch.placeholders]
        return hidden[:, 0].float().numpy().reshape(len(batch), 4, 4).astype(np.float64)


def observation(seed: int, instruction: str = "lift the red block") -> Observation:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    state = generator.uniform([-0.2, -0.2, 0, 0], [0.2, 0.2, 0.14, 1]).astype(np.float32)
    return Observation(images={"front": image}, state=state, instruction=instruction)


def crowd(count: int) -> list[Observation]:
    sentences = ["touch the blue block", LONG, "where is the yellow block"]
    return [observation(100 + index, sentences[index % 3]) for index in range(count)]


def test_a_launch_that_the_model_cannot_have_is_refused_at_once(policy):
    policy.model.network.reads_back = "it counts its images"
    assert replace(policy, launch=eager) is not None
    with pytest.raises(ValueError, match="launch=graphs: OpenVLA cannot be a CUDA graph: it counts its images"):
        replace(policy, launch=graphed)


def test_it_is_a_policy_in_robot_units(policy, tiny_contract):
    actions = policy.act(crowd(3))
    assert isinstance(policy, Policy)
    assert actions.shape == (3, 4, 4)
    assert actions.dtype == np.float32
    assert (np.abs(actions[..., :3]) <= 0.0301).all()  # the q01 and q99 of the contract, m
    assert np.abs(actions[..., :3]).max() > 0.001
    assert policy.act([]).shape == (0, 4, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_given_to_nobody(policy, value):
    """A damaged head; codes are always finite, numbers that a model says are not."""

    class Damaged(RawModel):
        def act(self, batch):
            chunks = super().act(batch)
            chunks[1, 2, 0] = value
            return chunks

    with pytest.raises(NonFiniteActionsError, match="NaN or infinity: its weights or its statistics are damaged"):
        replace(policy, model=Damaged(policy.model.network)).act(crowd(4))


@pytest.mark.parametrize("precision", [nullcontext, bf16])
@pytest.mark.parametrize("raw", [True, False])
def test_actions_do_not_depend_on_the_company(policy, precision, raw):
    policy = replace(policy, precision=precision, model=RawModel(policy.model.network) if raw else policy.model)
    one = observation(1, LONG)
    alone = policy.act([one])[0]
    assert not np.array_equal(alone, policy.act([observation(2, LONG)])[0])
    for count, places in {2: (0, 1, 2), 39: (17, 39)}.items():
        others = crowd(count)
        for place in places:
            together = policy.act([*others[:place], one, *others[place:]])
            np.testing.assert_array_equal(together[place], alone)


def test_the_order_of_observations_is_the_order_of_actions(policy):
    seen = crowd(7)
    assert len({policy.act([one]).tobytes() for one in seen}) == 7
    np.testing.assert_array_equal(policy.act(seen), np.concatenate([policy.act([one]) for one in seen]))


def test_every_forward_pass_has_the_same_rows_and_whole_buckets(policy):
    policy = replace(policy, model=RawModel(policy.model.network))
    policy.act(crowd(11))
    assert {rows for rows, _ in policy.model.shapes} == {4}
    assert {length % TEXT_BUCKET for _, length in policy.model.shapes} == {0}
    assert len({length for _, length in policy.model.shapes}) == 2  # the long sentence fills another bucket
    assert len(policy.model.shapes) == 3  # 7 short ones in two passes, 4 long ones in one


def test_the_model_goes_back_to_training_as_it_was(policy, tiny_batch):
    policy.model.network.train()
    policy.model.network.vision_backbone.eval()
    before = {name: module.training for name, module in policy.model.network.named_modules()}
    policy.act(crowd(2))
    assert {name: module.training for name, module in policy.model.network.named_modules()} == before
    policy.model.loss(tiny_batch).loss.backward()
    assert all(parameter.grad is not None for parameter in policy.model.network.language_model.model.parameters())


def test_dropout_is_off_while_acting(policy):
    policy.model.network.language_model.model.norm = nn.Sequential(policy.model.network.language_model.model.norm, nn.Dropout(0.5))
    policy.model.network.train()
    np.testing.assert_array_equal(policy.act(crowd(2)), policy.act(crowd(2)))


def test_text_that_is_more_likely_than_actions_is_seen(policy):
    assert isinstance(policy, WatchedPolicy)
    seen = crowd(7)
    quiet = policy.outside_mass(seen)
    assert quiet.shape == (7,)
    assert ((quiet > 0) & (quiet < 1)).all()
    with torch.no_grad():
        policy.model.network.language_model.lm_head.weight[:256] *= 100
    assert (policy.outside_mass(seen) > quiet).all()
    assert replace(policy, model=RawModel(policy.model.network)).outside_mass(seen) is None, "a model without codes"


def test_no_rows_are_refused(policy):
    with pytest.raises(ValueError, match="rows=0"):
        replace(policy, rows=0)


def test_a_wrong_observation_is_named(policy):
    good = observation(1)
    with pytest.raises(ValueError, match=r"\['wrist'\].*reads \['front'\]"):
        policy.act([replace(good, images={"wrist": good.images["front"]})])
    with pytest.raises(ValueError, match="exactly these"):
        policy.act([replace(good, images={**good.images, "wrist": good.images["front"]})])
    with pytest.raises(ValueError, match=r"front.*32"):
        policy.act([replace(good, images={"front": good.images["front"][:32]})])
    with pytest.raises(ValueError, match="NaN"):
        policy.act([replace(good, state=np.array([0, np.nan, 0, 0], np.float32))])
    with pytest.raises(ValueError, match="state"):
        policy.act([replace(good, state=np.zeros(3, np.float32))])
    with pytest.raises(ValueError, match="instruction is empty"):
        policy.act([replace(good, instruction=" ")])
    images = {"front": good.images["front"]}
    floating = replace(good, images=images)
    images["front"] = good.images["front"] / 255  # behind the back of the type check
    with pytest.raises(ValueError, match="float64"):
        policy.act([floating])
