"""How likely recorded chunks are to a policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.data.collate import collate
from vla_tune.evaluation.likelihood import mean_log_probability

SENTENCES = ("lift the red block", "push the green block to the left of the table and of everything else", "touch it")


@pytest.fixture
def samples():
    """Five frames; the last runs past its episode's end by two steps."""
    draw = np.random.default_rng(0)
    return [
        {
            "images": {"front": draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)},
            "observation.state": np.zeros(4, np.float32),
            "instruction": SENTENCES[place % 3],
            "index": np.array([0, place]),
            "actions": draw.uniform(-0.02, 0.02, (4, 4)).astype(np.float32),
            "action_mask": np.repeat(np.arange(4) < (2 if place == 4 else 4), 4).reshape(4, 4),
        }
        for place in range(5)
    ]


class Mute:
    """A model that acts, and no more."""

    network = None

    def loss(self, batch):
        raise NotImplementedError

    def act(self, batch):
        raise NotImplementedError


@torch.no_grad()
def test_it_is_the_mean_over_chunks_however_many_go_together(random_policy, samples):
    alone = [
        -random_policy.model.loss(collate([random_policy.pipeline(sample)], pad_id=512)).per_label.sum().item()
        for sample in samples  # the loss of hard targets is what is missing of a probability of 1
    ]
    for rows in (1, 2, 5):
        assert mean_log_probability(random_policy, samples, rows=rows) == pytest.approx(np.mean(alone), rel=1e-4)
    assert np.mean(alone) < 14 * np.log(1 / 256)


def test_it_is_told_something_else(random_policy, samples):
    told = [
        mean_log_probability(random_policy, samples, rows=5, say=lambda _, sentence=sentence: sentence) for sentence in SENTENCES
    ]
    assert len(set(told)) == 3


def test_a_model_that_gives_none_has_none(random_policy, samples):
    assert mean_log_probability(replace(random_policy, model=Mute()), samples, rows=5) is None
    assert mean_log_probability(random_policy, [], rows=5) is None
