"""What a run keeps of its evaluations, and what a comparison takes of it."""

from pathlib import Path

import pytest

from vla_tune.evaluation.kept import Wanted, evaluations_of


def test_the_fine_tuned_policy_is_taken_and_what_was_cut_short_is_not(keep, tmp_path: Path):
    run = keep(tmp_path / "a", "10")
    keep(run, "00", policy="wrong_instruction")
    keep(run, "1", seed=3, begun=True)
    (found,) = evaluations_of(run, Wanted())
    assert (found.about["policy"], [record.success for record in found.records]) == ("fine_tuned", [True, False])
    assert found.player == {"policy": "fine_tuned", "identity": "a", "execution.kind": "OpenLoop"}
    assert found.conditions["code.packages.mujoco"] == "3.8.0"
    (misled,) = evaluations_of(run, Wanted(policy="wrong_instruction"))
    assert not any(record.success for record in misled.records)


def test_of_a_merged_policy_the_only_one_is_taken(keep, tmp_path: Path):
    keep(tmp_path / "merged", "10", policy="merged")
    keep(tmp_path / "merged", "10", policy="wrong_instruction")
    (found,) = evaluations_of(tmp_path / "merged", Wanted())
    assert found.about["policy"] == "merged"


def test_some_of_the_evaluations_can_be_asked_for(keep, tmp_path: Path):
    run = keep(tmp_path / "a", "10")
    keep(run, "11", seed=2)
    keep(run, "1", task="touch")
    keep(run, "01", execution={"kind": "RecedingHorizon"})
    assert [len(evaluations_of(run, wanted)) for wanted in (Wanted(), Wanted(seed=1), Wanted(tasks=["touch"]))] == [4, 3, 1]
    assert len(evaluations_of(run, Wanted(execution="RecedingHorizon", suite="tabletop"))) == 1
    with pytest.raises(ValueError, match=r"keeps none of .*; of fine_tuned it keeps lift \(seed 1\), lift \(seed 2\), touch"):
        evaluations_of(run, Wanted(tasks=["stack"]))


def test_a_run_without_episodes_is_refused_with_the_command(keep, tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere is no folder: name runs"):
        evaluations_of(tmp_path / "nowhere", Wanted())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty keeps no evaluation .*evaluate it: scripts/eval.py run="):
        evaluations_of(tmp_path / "empty", Wanted())
    with pytest.raises(ValueError, match=r"the evaluation of .*short was cut short .*give its command again"):
        evaluations_of(keep(tmp_path / "short", "1", begun=True), Wanted())


def test_whose_episodes_they_are_must_be_clear(keep, tmp_path: Path):
    run = keep(keep(tmp_path / "a", "10", policy="libero"), "10", policy="bridge")
    with pytest.raises(ValueError, match=r"several policies: say only\.policy=<name>, one of bridge, libero"):
        evaluations_of(run, Wanted())
    with pytest.raises(ValueError, match=r"no evaluation of only\.policy=base: choose one of bridge, libero"):
        evaluations_of(run, Wanted(policy="base"))


def test_a_file_that_was_cut_is_refused(keep, tmp_path: Path):
    with pytest.raises(ValueError, match="does not hold what its name says"):
        evaluations_of(keep(tmp_path / "a", "10", episodes=3), Wanted())
