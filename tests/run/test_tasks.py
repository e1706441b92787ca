"""One word for one task, for some, or for all."""

import pytest
from omegaconf import OmegaConf

from vla_tune.run.tasks import chosen_tasks, in_words, only_task, tasks_of


@pytest.mark.parametrize(
    ("task", "listed", "names"),
    [
        ("lift", None, ["lift"]),
        (3, None, ["3"]),
        ([0, 4], ["0", "4", "7"], ["0", "4"]),
        (["touch", "lift"], None, ["touch", "lift"]),
        ("all", [0, 1], ["0", "1"]),
    ],
)
def test_tasks_are_words(task, listed, names):
    assert tasks_of(task, listed) == names
    assert tasks_of(OmegaConf.create({"task": task}).task, listed) == names


@pytest.mark.parametrize(
    ("task", "listed", "message"),
    [
        ("all", None, r"task=all: the environment lists no tasks \(env.tasks\)"),
        ([], None, "names no task"),
        (None, None, "names no task"),
        ("../elsewhere", None, "names no task"),
        ([1, 1], None, "'1' is named twice"),
        ("12", ["0", "1"], r"task=12 is none of the environment's \(env.tasks\): 0, 1"),
    ],
)
def test_what_is_no_task_is_told(task, listed, message):
    with pytest.raises(ValueError, match=message):
        tasks_of(task, listed)


def test_an_environment_may_list_its_tasks(configuration):
    assert chosen_tasks(configuration("train", "task=[lift,touch]")) == ["lift", "touch"]
    assert chosen_tasks(configuration("train", "task=all", "+env.tasks=[lift,touch]")) == ["lift", "touch"]
    cfg = configuration("train", "task=[lift,touch]", "data=tabletop_rehearsal")
    assert [cfg.data.sources[0].folder, cfg.data.sources[0].tasks] == ["datasets/tabletop_lift_touch", ["lift", "touch"]]
    assert configuration("train").data.sources[0].folder == "datasets/tabletop_lift"


def test_what_is_about_one_task_refuses_several():
    assert only_task(4, what="it") == "4"
    for task in ("all", ["lift", "touch"]):
        with pytest.raises(ValueError, match="it is about one task"):
            only_task(task, what="it")
    assert (in_words("lift"), in_words([0, 4])) == ("lift", "0, 4")
