from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_tune.models.openvla import OpenVLA
from vla_tune.models.precision import choose_attention
from vla_tune.training.grounding import GroundingBatch, GroundingMetrics, _centred_in, ground, grounding_batch

COLOURS = np.array([[230, 20, 20], [20, 220, 20], [20, 20, 230], [230, 230, 20], [20, 230, 230]], dtype=np.uint8)


def squares(rng: np.random.Generator, batch: int = 16, side: int = 64) -> GroundingBatch:
    """Five coloured squares, some of them absent, each somewhere on a grey ground."""
    images = np.full((batch, side, side, 3), 128, dtype=np.uint8)
    pixels = rng.uniform(6, side - 6, (batch, 5, 2))
    present = rng.random((batch, 5)) < 0.8
    for row in range(batch):
        for number in np.flatnonzero(present[row]):
            u, v = pixels[row, number].astype(int)
            images[row, v - 5 : v + 5, u - 5 : u + 5] = COLOURS[number]
    return grounding_batch(images, present, pixels, pixels / side * 2 - 1)


def test_a_batch_is_what_was_drawn():
    images = np.zeros((1, 40, 80, 3), dtype=np.uint8)
    images[0, 10, 70] = (255, 0, 51)
    pixels, positions = np.array([[[20.0, 30.0], [80.0, 10.0]]]), np.array([[[0.5, -1.0], [0.0, 0.0]]])
    batch = grounding_batch(images, np.array([[True, False]]), pixels, positions)
    assert batch.pixel_values.shape == (1, 1, 3, 40, 80)
    assert batch.pixel_values[0, 0, :, 10, 70].tolist() == pytest.approx([1.0, -1.0, -0.6])
    assert batch.cells[0].tolist() == [[0.25, 0.75], [1.0, 0.25]], "(column, row) as shares of width and height"
    assert batch.positions[0].tolist() == [[0.5, -1.0], [0.0, 0.0]]
    assert batch.present.tolist() == [[True, False]]


def test_an_object_lies_in_the_cell_of_its_centre():
    rng = np.random.default_rng(0)
    batch = squares(rng, batch=8)
    here = _centred_in(batch, num_patches=16)
    assert here.shape == (8, 16, 5)
    for row in range(8):
        for number in range(5):
            cells = here[row, :, number].nonzero().flatten().tolist()
            column, line = (batch.cells[row, number] * 4).tolist()
            assert cells == ([int(line) * 4 + int(column)] if batch.present[row, number] else [])


def test_the_patch_of_that_cell_sees_the_object(tiny_model: OpenVLA):
    """Patches are counted as the vision tower counts them."""
    batch = squares(np.random.default_rng(1), batch=1)
    batch = replace(batch, present=torch.ones_like(batch.present))
    here = _centred_in(batch, num_patches=16)[0]
    tower = tiny_model.vision_backbone.towers[0]
    grey = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for number in range(5):
            shown = grey.clone()
            u, v = (batch.cells[0, number] * 64).long().tolist()
            shown[0, :, v, u] = 1.0
            change = (tower.patch_embed(shown) - tower.patch_embed(grey)).abs().sum(dim=-1)[0]
            assert change.nonzero().flatten().tolist() == here[:, number].nonzero().flatten().tolist()


def test_the_tower_learns_what_is_where(tiny_model: OpenVLA):
    choose_attention(tiny_model, "cpu")
    rng, seen = np.random.default_rng(0), []

    def batches() -> Iterator[GroundingBatch]:
        while True:
            yield squares(rng)

    def remember(step: int, metrics: GroundingMetrics) -> None:
        seen.append((step, metrics))

    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    torch.manual_seed(0)
    ground(tiny_model, batches(), steps=30, learning_rate=1.5e-3, warmup_steps=5, on_step=remember)
    assert [step for step, _ in seen] == list(range(1, 31))
    losses = [metrics.loss for _, metrics in seen]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert seen[-1][1].presence_accuracy > 0.8
    changed = {name for name, weight in tiny_model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in changed} == {"vision_backbone", "projector"}
    assert not any(".blocks.2." in name for name in changed), "the block behind the features does not learn"
