from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import gymnasium
import pytest

import vla_tune.run.evaluate as evaluation
from envs.wrappers import DistractorInstruction
from vla_tune.data import build_pipeline
from vla_tune.evaluation import Cell
from vla_tune.evaluation.environments import in_turn
from vla_tune.evaluation.fingerprint import Look
from vla_tune.execution import OpenLoop, RecedingHorizon
from vla_tune.models.heads import AutoregressiveTokenHead, ParallelTokenHead
from vla_tune.models.heads.decoding import Constrained, FullVocabulary
from vla_tune.models.openvla.inputs import OpenVLAInputs, space_of
from vla_tune.policy import LocalPolicy
from vla_tune.run.evaluate import decoding_with
from vla_tune.run.objects import Trained


@pytest.fixture
def trained(tiny_model, tiny_contract, tiny_tokenizer):
    def build(decoding: str) -> Trained:
        contract = replace(tiny_contract, model=tiny_contract.model | {"decoding": decoding})
        head = {"parallel": ParallelTokenHead, "autoregressive": AutoregressiveTokenHead}[decoding]
        space = space_of(contract, stop_id=2)
        policy = LocalPolicy(
            head(space).over(tiny_model), build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer)), contract, pad_id=512
        )
        return Trained(policy, (Path("nowhere"),))

    return build


def test_codes_in_turn_are_chosen_as_asked(trained):
    policy = trained("autoregressive")
    assert policy.policy.model.decoder == Constrained()
    assert decoding_with(FullVocabulary(), policy).policy.model.decoder == FullVocabulary()


def test_codes_in_parallel_are_not(trained):
    policy = trained("parallel")
    assert decoding_with(Constrained(), policy) is policy
    with pytest.raises(ValueError, match="FullVocabulary chooses codes one after the other, a ParallelTokenModel does not"):
        decoding_with(FullVocabulary(), policy)


@pytest.mark.parametrize(
    ("words", "steps", "execution"),
    [([], 4, OpenLoop()), ([], 3, RecedingHorizon(3)), (["execution=receding", "execution.steps=1"], 3, RecedingHorizon(1))],
)
def test_chunks_are_played_as_far_as_the_contract_says_unless_told_otherwise(
    trained, configuration, monkeypatch, tmp_path: Path, words, steps, execution
):
    played: list[Cell] = []
    monkeypatch.setattr(evaluation, "evaluate_cell", lambda folder, cell, **_: played.append(cell) or [])
    monkeypatch.setattr(evaluation, "policy_identity", lambda folders, run: "nobody")
    policy = trained("parallel").policy
    made = Trained(replace(policy, contract=replace(policy.contract, execute_steps=steps)), ())
    cfg = configuration("eval", "run=nowhere", "task=lift", *words)
    look = Look(info={}, code={}, fingerprint={"frame": "a1"})
    venue = evaluation.Venue(make_env=partial(gymnasium.Env), vectorize=in_turn, num_envs=1, actor=policy)
    cell = evaluation._cell(cfg, made, venue, look, policy="fine_tuned", task="lift")
    evaluation._played(cfg, made, venue, cell, folder=tmp_path, films=False)
    assert [cell.execution for cell in played] == [execution]
    assert [(cell.protocol, cell.fingerprint) for cell in played] == [("tabletop", {"frame": "a1"})]
    assert evaluation.execution_name(cfg, made.policy.contract) == type(execution).__name__


def test_a_wrong_instruction_needs_one_that_the_environment_tells():
    class World(gymnasium.Env):
        told: ClassVar = {"distractor_instruction": "push it"}

        def reset(self, *, seed=None, options=None):
            return {"instruction": "lift it"}, self.told

    assert DistractorInstruction(World()).reset()[0]["instruction"] == "push it"
    World.told = {}
    with pytest.raises(ValueError, match="a wrong instruction cannot be tried"):
        DistractorInstruction(World()).reset()
