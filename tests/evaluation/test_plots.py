import json
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vla_tune.evaluation import success_row
from vla_tune.evaluation.plots import plot_log, plot_success, plot_sweep
from vla_tune.evaluation.stats import mean_row

TASKS = ("push_left", "push_right", "push_forward", "push_back", "touch", "lift", "stack", "place_left_of")


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, so that a test can ask what is on them."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: (saved.append(figure), save(figure, *args, **kwargs)))
    return saved


@pytest.fixture
def rows(records_of):
    rates = {"base": 0, "fine_tuned": 9, "wrong_instruction": 2}
    return [
        success_row(policy=policy, task=task, records=records_of([1] * rate + [0] * (10 - rate), task=task))
        for task in TASKS
        for policy, rate in rates.items()
    ]


def drawn_ticks(axes):
    """Matplotlib also keeps labels beyond the limits, which it does not draw."""
    for labels, index, (low, high) in ((axes.get_xticklabels(), 0, axes.get_xlim()), (axes.get_yticklabels(), 1, axes.get_ylim())):
        yield from (label for label in labels if low <= label.get_position()[index] <= high)


def assert_readable(figure: Figure, path) -> None:
    """No text runs over another or over the edge."""
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in (*drawn_ticks(axes), axes.xaxis.label, axes.yaxis.label)]
    texts += [text for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    texts += [figure._suptitle] if figure._suptitle else []
    texts = [text for text in texts if text.get_visible() and text.get_text() and not text.get_rotation()]
    boxes = [text.get_window_extent() for text in texts]
    whole = figure.bbox
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.width and box.y1 <= whole.height for box in boxes)
    pairs = combinations(zip(texts, boxes, strict=True), 2)
    overlapping = [(one.get_text(), two.get_text()) for (one, x), (two, y) in pairs if x.overlaps(y)]
    assert not overlapping
    with Image.open(path) as image:
        assert min(image.size) >= 500
        assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_success_bars_have_their_height_and_whiskers(rows, figures, tmp_path):
    plot_success(rows, tmp_path / "new" / "success.png", title="Tabletop")
    axes = figures[0].axes[0]
    assert [[round(bar.get_height()) for bar in bars] for bars in axes.containers if hasattr(bars, "patches")] == [
        [0] * 8,
        [90] * 8,
        [20] * 8,
    ]
    whiskers = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert len(whiskers) == 24
    tuned = [segment[:, 1] for segment in whiskers if segment[1, 1] > 95]
    np.testing.assert_allclose(tuned[0], [59.6, 98.2], atol=0.1)  # Wilson, 9 of 10
    assert_readable(figures[0], tmp_path / "new" / "success.png")


def test_one_task_is_readable_too(rows, figures, tmp_path):
    plot_success(rows[:3], tmp_path / "success.png")
    assert_readable(figures[0], tmp_path / "success.png")


def test_many_tasks_lie_below_each_other_with_their_sentences(rows, figures, tmp_path):
    sentence = "pick up the black bowl between the plate and the ramekin and place it on the plate"
    many = [row | {"task": f"{number}", "instruction": sentence} for number in range(10) for row in rows[:3]]
    many += [mean_row([row for row in many if row["policy"] == policy]) for policy in ("fine_tuned", "wrong_instruction")]
    plot_success(many, tmp_path / "success.png", title="bc-full-all")
    axes = figures[0].axes[0]
    assert [len(bars) for bars in axes.containers if hasattr(bars, "patches")] == [10, 11, 11]
    labels = [" ".join(label.get_text().split()) for label in axes.get_yticklabels()]
    assert labels == [*(f"{number}: {sentence}" for number in range(10)), "mean of 10 tasks"]
    assert_readable(figures[0], tmp_path / "success.png")


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_show_what_was_logged(figures, tmp_path):
    lines = [{"step": step, "train/loss": 5 / step, "lr": 1e-4} for step in range(1, 101)]
    for line in lines[19::20]:
        line |= {"validation/loss": 6 / line["step"], "validation/action_error": 0.01, "validation/first_frame_error": 0.02}
    plot_log(write_log(tmp_path / "log.jsonl", lines), tmp_path / "log.png", error_unit="m", title="run")
    above, below = figures[0].axes
    curves = {line.get_label(): line.get_xydata() for axes in (above, below) for line in axes.get_lines()}
    assert {name: len(points) for name, points in curves.items()} == {
        "training": 100,
        "held out": 5,
        "all frames": 5,
        "first frames": 5,
    }
    np.testing.assert_allclose(curves["held out"][0], [20, 0.3])
    assert "[m]" in below.get_ylabel()
    assert_readable(figures[0], tmp_path / "log.png")


def test_a_log_without_validation_has_one_panel(figures, tmp_path):
    plot_log(write_log(tmp_path / "log.jsonl", [{"step": 1, "train/loss": 2.0}]), tmp_path / "log.png", error_unit="m")
    assert len(figures[0].axes) == 1


def test_another_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train/loss"):
        plot_log(write_log(tmp_path / "log.jsonl", [{"step": 1}]), tmp_path / "log.png", error_unit="m")


@pytest.mark.parametrize("values", [(4, 1, 2), ("open_loop", "receding_2", "temporal_ensemble")])
def test_a_sweep_stands_in_order(rows, figures, tmp_path, values):
    swept = [row | {"setting": value} for value in values for row in rows[:2]]
    plot_sweep(swept, tmp_path / "sweep.png", column="setting", title="Execution")
    axes = figures[0].axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == (["1", "2", "4"] if 4 in values else ["open loop", "receding 2", "temporal ensemble"])
    assert len(axes.containers) == 2
    assert_readable(figures[0], tmp_path / "sweep.png")
