"""Runs are paired by their starts, and what else differs is named."""

from pathlib import Path

import pytest

from vla_tune.evaluation.episodes import read_episodes, write_episodes
from vla_tune.evaluation.kept import Wanted
from vla_tune.evaluation.paired import Candidate, pair


@pytest.fixture
def two(keep, tmp_path: Path):
    """Candidates `a` and `b`, of one run each, with what is said of their evaluations."""

    def make(first: str, second: str, **about):
        runs = [keep(tmp_path / "a", first), keep(tmp_path / "b", second, **about)]
        return [Candidate(name=run.name, runs=[run]) for run in runs]

    return make


def of(name: str, *runs: Path) -> Candidate:
    return Candidate(name=name, runs=runs)


def test_starts_stand_in_one_order(two):
    paired = pair(two("1101", "1000"))
    assert [played.success.tolist() for played in paired.played] == [[[True, True, False, True]], [[True, False, False, False]]]
    assert paired.tasks.tolist() == ["lift"] * 4
    assert (paired.shared, list(paired.notes)) == (True, [])


def test_what_one_alone_played_is_left_out_and_said(two, keep):
    candidates = two("10", "11")
    keep(candidates[0].runs[0], "111", task="touch")
    paired = pair(candidates)
    assert paired.tasks.tolist() == ["lift", "lift"]
    assert list(paired.notes) == ["Left out, as not all played it under the same conditions: touch of a."]


def test_training_seeds_meet_the_same_starts_or_each_its_own(keep, tmp_path: Path):
    a, b = ([keep(tmp_path / f"{name}{seed}", "1110", seed=seed) for seed in (1, 2)] for name in "ab")
    paired = pair([of("a", *a), of("b", *b)])
    assert not paired.shared
    assert [played.success.shape for played in paired.played] == [(2, 4), (2, 4)]
    assert [one["seed"] for one in paired.conditions] == [1, 2]
    for run in (*a, *b):
        keep(run, "00", seed=9)
    paired = pair([of("a", *a), of("b", *b)])
    assert paired.shared
    assert [played.success.shape for played in paired.played] == [(2, 2), (2, 2)]


def test_starts_that_are_partly_the_same_are_refused(keep, tmp_path: Path):
    a = [keep(tmp_path / f"a{seed}", "10", seed=seed) for seed in (1, 2)]
    b = [keep(tmp_path / f"b{seed}", "10", seed=seed) for seed in (1, 2)]
    more = keep(tmp_path / "b3", "10", seed=2)
    with pytest.raises(ValueError, match=r"the runs of a and b met partly the same starts: evaluate all with one evaluation.seed"):
        pair([of("a", *a), of("b", *b, more)])
    with pytest.raises(ValueError, match=r"a1 and .*b2 did not play lift under the same conditions: seed is 1 and 2"):
        pair([of("a", *a), of("b", *b[::-1])])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"seed": 2}, r"seed is 1 and 2\. Evaluate both with the same env, task and evaluation"),
        ({"protocol": "fast"}, r"protocol is None and fast.*'accept=\[protocol\]'"),
        (
            {"fingerprint": {"renderer": "a GPU", "frame": "f1"}},
            r"fingerprint.frame is None and f1; .*'accept=\[fingerprint.frame,fingerprint.renderer\]'",
        ),
        ({"rules": {"success": "Once", "max_steps": 50}}, r"rules.max_steps is None and 50.*'accept=\[rules.max_steps\]'"),
        ({"environment": "dark"}, "environment is plain and dark"),
        (
            {"code": {"sources": "s2", "packages": {"mujoco": "3.3.1"}, "ours": "o1"}},
            r"code.packages.mujoco is 3.8.0 and 3.3.1; code.sources is s1 and s2.*'accept=\[code.packages.mujoco,code.sources\]'",
        ),
        ({"suite": "other"}, "suite is tabletop and other"),
    ],
)
def test_what_differs_is_named(two, about, message):
    with pytest.raises(ValueError, match=f"a and .*b did not play lift under the same conditions: .*{message}"):
        pair(two("10", "11", **about))


def test_another_number_of_episodes_is_another_evaluation(two):
    with pytest.raises(ValueError, match="episodes is 2 and 3"):
        pair(two("10", "110"))


def test_other_tasks_are_named(two):
    with pytest.raises(ValueError, match=r"did not play the same: .*a played lift, .*b touch\. Evaluate both on one task"):
        pair(two("10", "11", task="touch"))


def test_what_is_accepted_is_said(two):
    candidates = two("10", "11", code={"sources": "s1", "packages": {"mujoco": "3.8.0"}, "ours": "o2"})
    for accept in (["code.ours"], ["code"]):
        assert list(pair(candidates, accept=accept).notes) == ["Taken as equal, and is not: code.ours (o1, o2)."]
    with pytest.raises(ValueError, match=r"accept=seed: without the same seed, episodes, suite, task there are no pairs"):
        pair(candidates, accept=["seed"])


def test_another_environment_may_be_accepted(two, keep):
    """As the refusal says; tasks stand side by side, wherever the words of their environments would put them."""
    candidates = two("10", "11", environment="dark")
    keep(candidates[0].runs[0], "000", task="touch", environment="a")
    keep(candidates[1].runs[0], "001", task="touch", environment="z")
    paired = pair(candidates, accept=["environment"])
    assert paired.tasks.tolist() == ["lift"] * 2 + ["touch"] * 3
    assert [played.success.sum() for played in paired.played] == [1, 3]
    assert list(paired.notes) == ["Taken as equal, and is not: environment (plain, a, dark, z)."]


def test_ways_to_execute_are_the_candidates_own_and_said(two):
    (note,) = pair(two("10", "11", execution={"kind": "RecedingHorizon", "steps": 2})).notes
    assert note == "They execute their chunks in other ways: a: OpenLoop; b: RecedingHorizon 2."


def test_two_evaluations_of_one_run_from_the_same_starts_are_refused(two, keep):
    candidates = two("10", "11")
    keep(candidates[0].runs[0], "11", execution={"kind": "RecedingHorizon"})
    with pytest.raises(
        ValueError, match=r"a keeps two evaluations of lift .* differ in execution.kind: choose with only\.execution="
    ):
        pair(candidates)
    assert len(pair(candidates, wanted=Wanted(execution="OpenLoop")).tasks) == 2


def test_states_are_compared_and_not_only_what_is_said_of_them(keep, tmp_path: Path):
    a, b = keep(tmp_path / "a", "10"), keep(tmp_path / "b", "10", seed=2)
    (path,) = (b / "evaluation").iterdir()
    records, about = read_episodes(path)
    write_episodes(path, records, key=about | {"seed": 1})
    with pytest.raises(ValueError, match=r"a and .*b began from other states, though both say one seed"):
        pair([of("a", a), of("b", b)])


def test_a_start_does_not_count_twice(two, keep):
    candidates = two("10", "11")
    for one in candidates:
        keep(one.runs[0], "11", code={"sources": "s1", "packages": {"mujoco": "3.8.0"}, "ours": "o2"})
    with pytest.raises(
        ValueError, match=r"a met the same starts of lift twice, under conditions that differ in code\.ours: move one of"
    ):
        pair(candidates)


def test_a_run_is_named_once(two):
    first, second = two("10", "11")
    with pytest.raises(ValueError, match="a is named twice: each run once"):
        pair([first, second, Candidate(name="again", runs=[second.runs[0].parent / "a"])])
    with pytest.raises(ValueError, match="a comparison is between two or more"):
        pair([first])


def test_a_task_in_two_environments_is_two_lines(two, keep):
    candidates = two("10", "11")
    dark = "{'_target_': 'envs.lit', '_partial_': True, 'gain': 0.5}"
    for one in candidates:
        keep(one.runs[0], "11", environment=dark)
    assert sorted(set(pair(candidates).tasks.tolist())) == ["lift, envs.lit, gain: 0.5", "lift, plain"]
