"""Open loop: errors against recorded actions, in robot units, over the frames that count."""

import numpy as np
import pytest
from PIL import Image

from vla_tune.evaluation.open_loop import compared, open_loop_row, other_sentences
from vla_tune.evaluation.open_loop_plots import Drawn, plot_actions, plot_errors
from vla_tune.evaluation.report import open_loop_cells, tables

SENTENCES = ("lift the red block", "push the green block", "touch it")


class Off:
    """Predicts zeros, or ones where it is told to push."""

    def __init__(self, horizon: int = 3) -> None:
        self.horizon, self.asked = horizon, []

    def act(self, observations):
        self.asked.append(len(observations))
        return np.stack([np.full((self.horizon, 4), float("push" in one.instruction), np.float32) for one in observations])

    def reset(self):
        pass


@pytest.fixture
def samples():
    """Five frames; the last two run past their episode's end by one and two steps."""
    return [
        {
            "observation.images.front": np.zeros((64, 64, 3), np.uint8),
            "observation.state": np.zeros(4, np.float32),
            "instruction": SENTENCES[place % 2],
            "actions": np.tile(np.array([[0.01, 0.02, 0.03, 1.0]], np.float32), (3, 1)) * (1 + np.arange(3))[:, None],
            "action_mask": np.repeat(np.arange(3) < 6 - max(place, 3), 4).reshape(3, 4),
        }
        for place in range(5)
    ]


def test_errors_are_means_over_what_counts(samples, body, tiny_contract):
    policy = Off()
    found = compared(policy, samples, body, rows=2)
    assert policy.asked == [2, 2, 1]
    assert np.isnan(found.errors[4, 2]).all()
    row = open_loop_row(found, tiny_contract, policy="fine_tuned")
    assert (row["policy"], row["frames"]) == ("fine_tuned", 5)
    translation, suction = row["groups"]["tool_translation"], row["groups"]["suction"]
    assert (translation["unit"], suction["unit"]) == ("m", "1")
    pushed = (0.99 + 0.98 + 0.97) / 3
    assert translation["by_step"][0] == pytest.approx((3 * 0.02 + 2 * pushed) / 5)
    assert suction["by_dimension"] == [suction["error"]]
    assert len(translation["by_dimension"]) == len(row["by_step"]) == 3
    shares = (found.errors / np.array([0.06, 0.06, 0.06, 1.0]))[found.counts]
    assert row["error"] == pytest.approx(shares.mean())


def test_a_shorter_chunk_is_compared_as_far_as_it_goes(samples, body):
    assert compared(Off(horizon=2), samples, body, rows=8).errors.shape == (5, 2, 4)


def test_the_wrong_instruction_is_another_ones(samples, body):
    others = other_sentences([*SENTENCES, SENTENCES[0]])
    assert sorted(others) == sorted(others.values()) == sorted(SENTENCES)
    assert all(one != other for one, other in others.items())
    assert other_sentences(["lift it", "lift it"]) == {}
    found = compared(Off(), samples, body, rows=8, say=others.__getitem__)
    assert (found.predicted[0] == 1).all()
    assert (found.predicted[1] == 0).all()


def test_it_is_shown_as_a_table_and_as_pictures(samples, body, tiny_contract, tmp_path):
    rows = [open_loop_row(compared(Off(), samples, body, rows=8), tiny_contract, policy=name) for name in ("base", "fine_tuned")]
    header, line, _ = open_loop_cells(rows)
    assert header == ["policy", "held-out frames", "error, of an action's range", "tool_translation [m]", "suction [1]"]
    assert line[:2] == ["base", "5"]
    assert [table.row_count for table in tables({"evaluation": [], "open_loop": rows}, title="x")] == [2]
    assert tables({"evaluation": []}, title="x") == []
    plot_errors(rows, tmp_path / "held_out.png", seconds=0.1, title="errors")
    recorded = np.cumsum(np.ones((9, 4)), axis=0)
    drawn = [Drawn(number, recorded, {0: recorded[:3], 3: recorded[3:6] + 1, 6: recorded[6:8]}) for number in (3, 7)]
    plot_actions(drawn, tmp_path / "actions.png", body=body, title="actions")
    for name in ("held_out.png", "actions.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 400
