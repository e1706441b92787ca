from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest
from omegaconf import OmegaConf

import vla_tune.run.evaluate as evaluation
from envs.wrappers import DistractorInstruction
from vla_tune.data import build_pipeline
from vla_tune.heads import AutoregressiveTokenHead, ParallelTokenHead, action_space
from vla_tune.heads.decoding import Constrained, FullVocabulary
from vla_tune.policy import LocalPolicy
from vla_tune.run.evaluate import decoding_with
from vla_tune.run.objects import Trained


@pytest.fixture
def trained(tiny_model, tiny_contract, tiny_tokenizer):
    def build(decoding: str) -> Trained:
        contract = replace(tiny_contract, decoding=decoding)
        head = {"parallel": ParallelTokenHead, "autoregressive": AutoregressiveTokenHead}[decoding]
        space = action_space(contract, stop_id=2)
        policy = LocalPolicy(tiny_model, head(space), build_pipeline(contract, tiny_tokenizer), contract, pad_id=512)
        return Trained(policy, (Path("nowhere"),))

    return build


def test_codes_in_turn_are_chosen_as_asked(trained):
    policy = trained("autoregressive")
    assert policy.policy.head.decoder == Constrained()
    assert decoding_with(FullVocabulary(), policy).policy.head.decoder == FullVocabulary()


def test_codes_in_parallel_are_not(trained):
    policy = trained("parallel")
    assert decoding_with(Constrained(), policy) is policy
    with pytest.raises(ValueError, match="FullVocabulary chooses codes one after the other, this policy decodes 'parallel'"):
        decoding_with(FullVocabulary(), policy)


@pytest.mark.parametrize(("told", "tried"), [({"distractor_instruction": "push it"}, True), ({}, False)])
def test_a_wrong_instruction_is_tried_where_the_environment_tells_one(monkeypatch, capsys, told, tried):
    class World(gymnasium.Env):
        def reset(self, *, seed=None, options=None):
            return {"instruction": "lift it"}, told

    monkeypatch.setattr(evaluation, "build", lambda cfg: lambda task: World())
    assert evaluation.misleads(OmegaConf.create({"env": {"make": {}}}), "lift") is tried
    assert ("is not tried" in capsys.readouterr().out) is not tried
    misled = DistractorInstruction(World())
    if tried:
        assert misled.reset()[0]["instruction"] == "push it"
    else:
        with pytest.raises(ValueError, match="a wrong instruction cannot be tried"):
            misled.reset()
