import numpy as np
import pytest
import torch

from vla_tune.models.base import Loss
from vla_tune.models.forward import Forward
from vla_tune.models.heads.codes import rows_of
from vla_tune.training.metrics import Chosen, Validation, action_errors, culprits, held_out

METRES = ["m"] * 4


def test_errors_by_hand() -> None:
    """Two samples of T=2, A=2; the second's chunk ends after one action."""
    errors = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 7.0], [np.nan, np.nan]])]
    found = action_errors(errors, first=errors[1:], units=["m", "1"])
    assert found == {
        "validation/action_error": 3.0,  # metres only
        "validation/action_error_0": 3.0,
        "validation/action_error_1": pytest.approx(13 / 3),
        "validation/first_frame_error": 5.0,
    }
    assert "validation/first_frame_error" not in action_errors(errors, units=["m", "1"])
    assert action_errors([], units=["m", "1"]) == {}


class Offset:
    """Predicts the truth plus 0.1 in normalised units, and a wrong chunk on frame 0."""

    def __init__(self):
        self.network = torch.nn.Linear(1, 1)

    def loss(self, batch) -> Loss:
        assert not self.network.training
        assert not torch.is_grad_enabled()
        labels = batch.labels[batch.labels != -100]
        return Loss(labels.float(), labels % 2 == 0, rows_of(batch.labels != -100))

    def act(self, batch):
        extra = torch.where(batch.index[:, 1] == 0, 0.3, 0.1)[:, None, None]
        return (batch.actions + extra).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_measured_in_robot_units_whatever_the_batch(batch_size: int, tiny_samples) -> None:
    scale = np.array([2.0, 2.0, 2.0, 10.0], dtype=np.float32)
    measured = Validation(
        tiny_samples,
        predicted=tiny_samples,
        first_frames=Chosen(tiny_samples, [0, 5]),
        inverse=lambda actions, sample: actions * scale,
        units=["m"] * 4,
    )
    model = Offset()
    found = measured.measure(Forward(model, 512), batch_size=batch_size)
    labels = np.concatenate([sample["labels"][sample["labels"] != -100] for sample in tiny_samples])
    assert found["validation/loss"] == pytest.approx(labels.mean(), rel=1e-6)
    assert found["validation/token_accuracy"] == pytest.approx((labels % 2 == 0).mean())
    kept = np.array([sample["action_mask"][:, 0].sum() for sample in tiny_samples])
    first = np.arange(10) % 5 == 0
    expected = (kept[first].sum() * 0.3 + kept[~first].sum() * 0.1) / kept.sum()
    assert found["validation/action_error_0"] == pytest.approx(2 * expected, rel=1e-5)
    assert found["validation/action_error_3"] == pytest.approx(10 * expected, rel=1e-5)
    assert found["validation/action_error"] == pytest.approx(4 * expected, rel=1e-5)
    assert found["validation/first_frame_error"] == pytest.approx(4 * 0.3, rel=1e-5)
    assert model.network.training


def test_what_lies_beyond_the_episode_counts_nothing(tiny_samples) -> None:
    spoiled = [
        sample | {"actions": np.where(sample["action_mask"], sample["actions"], 50.0).astype(np.float32)} for sample in tiny_samples
    ]
    results = [
        Validation(samples, predicted=samples, inverse=lambda actions, _: actions**2, units=METRES).measure(
            Forward(Offset(), 512), batch_size=4
        )
        for samples in (tiny_samples, spoiled)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("bad", [[0], [1, 2], [0, 1, 2]])
def test_culprits_are_the_samples_with_bad_labels(bad: list[int], tiny_batch) -> None:
    labelled = tiny_batch.labels != -100
    per_label = torch.zeros(int(labelled.sum()))
    rows = rows_of(labelled)
    for number, row in enumerate(bad):
        per_label[(rows == row).nonzero()[-1]] = (torch.nan, torch.inf, -torch.inf)[number]
    expected = [tuple(tiny_batch.index[row].tolist()) for row in bad]
    assert culprits(tiny_batch, Loss(per_label, None, rows)) == expected


class Numbers(Offset):
    """Has no codes."""

    def loss(self, batch) -> Loss:
        return Loss(batch.actions[batch.action_mask], None, rows_of(batch.action_mask))


def test_where_there_are_no_codes_there_is_no_accuracy(tiny_samples) -> None:
    found = Validation(tiny_samples, units=METRES).measure(Forward(Numbers(), 512), batch_size=4)
    assert "validation/token_accuracy" not in found
    kept = np.concatenate([sample["actions"][sample["action_mask"]] for sample in tiny_samples])
    assert found["validation/loss"] == pytest.approx(kept.mean(), abs=1e-6)


def test_a_validation_does_not_grow_with_the_dataset(tiny_samples, watched) -> None:
    samples = watched(tiny_samples * 50)
    bounded = held_out(
        samples, first_frames=range(0, 500, 5), frames=8, predicted=3, inverse=lambda actions, _: actions, units=METRES
    )
    assert "validation/first_frame_error" in bounded.measure(Forward(Offset(), 512), batch_size=4)
    assert samples.asked == [0, 62, 125, 187, 250, 312, 375, 437, 0, 166, 333, 0, 165, 330]


def test_a_small_one_is_measured_whole(tiny_samples, watched) -> None:
    samples = watched(tiny_samples)
    bounded = held_out(samples, first_frames=[0, 5], frames=512, predicted=64, inverse=lambda actions, _: actions, units=METRES)
    whole = Validation(tiny_samples, predicted=tiny_samples, first_frames=Chosen(tiny_samples, [0, 5]), units=METRES)
    assert bounded.measure(Forward(Offset(), 512), batch_size=4) == whole.measure(Forward(Offset(), 512), batch_size=4)
    assert samples.asked == [*range(10), *range(10), 0, 5]
