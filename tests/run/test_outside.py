"""What lies outside of the package is trained with, checked, merged, exported, evaluated and served by the same commands."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from vla_tune.adapters import Adapter
from vla_tune.run.check import check
from vla_tune.run.errors import one_line_errors
from vla_tune.run.evaluate import evaluate_run
from vla_tune.run.export import export_run
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.merge import merge_run
from vla_tune.run.objects import load_policy
from vla_tune.run.recorded import recorded_observations
from vla_tune.run.serve import _policies
from vla_tune.run.stored import adapter_of, data_of, own_classes, trusting

HERE = Path(__file__).parent / "outside"
MINE = f"hydra.searchpath=[file://{HERE / 'conf'}]"
OWN = ["my_lab.Drawn", "my_lab.Norms", "my_lab:Slide-v0"]
LOOSE = ["tolerance.token_agreement=0.0", "tolerance.mean_error=10.0", "tolerance.drift_noise=10.0", "tolerance.loss_noise=10.0"]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture
def words(base: Path, tmp_path: Path) -> list[str]:
    small = ["training.steps=2", "training.batch_size=4", "horizon=4", "validation.frames=8", "validation.predicted=4"]
    tried = [
        "evaluation.episodes=2",
        "evaluation.num_envs=2",
        "evaluation.rows=2",
        "evaluation.films=[]",
        "evaluation.remembered=[]",
    ]
    probed = ["validation.seen=4", "evaluation.probed=4", "evaluation.replayed=0", "optimizer.learning_rate=1e-3", "device=cpu"]
    own = [MINE, "adapter=norms", "data=slide", f"data.sources.0.folder={tmp_path / 'data'}", "env=slide", "task=slide"]
    return [*own, f"model.folder={base}", "evaluation=simulation", *small, *tried, *probed]


def test_what_the_user_composes_is_named(words: list[str], configuration):
    assert own_classes(OmegaConf.to_container(configuration("train", *words))) == ["my_lab.Drawn", "my_lab.Norms"]
    assert own_classes(OmegaConf.to_container(configuration("train"))) == []


def test_a_class_of_ones_own_is_built_where_it_is_named(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("adapter: {_target_: my_lab.Norms}\n")

    @one_line_errors
    def command(cfg: DictConfig) -> Adapter:
        return adapter_of(tmp_path)

    assert isinstance(command(OmegaConf.create({"trusted": ["my_lab.Norms"]})), Adapter)
    for others in ([], ["my_lab.Drawn"], ["my_lab"], ["my_lab.*"]):
        with pytest.raises(SystemExit):
            command(OmegaConf.create({"trusted": others}))
    with pytest.raises(ValueError, match=r"my_lab\.Norms.*trusted="):
        adapter_of(tmp_path)


@pytest.mark.ci  # the whole way
def test_a_laboratorys_own_adapter_source_and_environment(words: list[str], configuration, tmp_path: Path):
    run = tmp_path / "run"
    fine_tune(configuration("train", *words), run, resume_command="")
    rows = json.loads((run / "results.json").read_text())["evaluation"]
    assert [row["policy"] for row in rows] == ["fine_tuned"], "the base is for another robot"
    with pytest.raises(ValueError, match=r"my_lab\.Norms.*trusted="):
        adapter_of(run)
    evaluation = [MINE, f"run={run}", "env=slide", "evaluation.episodes=2", "evaluation.num_envs=2", "evaluation.rows=2"]
    with trusting(OWN):
        evaluate_run(configuration("eval", *evaluation, "device=cpu"), tmp_path / "evaluation")
        (row,) = json.loads((tmp_path / "evaluation" / "results.json").read_text())["evaluation"]
        assert (row["task"], row["episodes"]) == ("slide", 2)
        merge_run(configuration("merge", f"run={run}", "observations=6", *LOOSE))
        export_run(configuration("export", f"run={run}", f"to={tmp_path / 'robot'}", "frames=2", "observations=6", *LOOSE))
        served = _policies(configuration("serve", f"policy={run}", "device=cpu")).examined(unproved=False)
    assert [finding.passed for finding in served] == [True]
    check(configuration("check", f"policy={tmp_path / 'robot'}", "device=cpu"))  # merged, it needs nothing of the laboratory's


@pytest.fixture
def flow(tmp_path: Path) -> list[str]:
    """The words of a run of the laboratory's own kind of model, on its own robot."""
    import my_flow

    my_flow.make(tmp_path / "flow", horizon=4, action_dimension=2, state_dimension=2)
    own = ["model=flow", f"model.folder={tmp_path / 'flow'}", "head=none", "tokens=none", "adapter=lora_r16", "adapter.base=fp32"]
    return [*own, "adapter.towers=[expert]", "adapter.targets=[up_proj,down_proj]", "precision=fp32"]


def test_a_model_that_says_no_codes_refuses_them(words: list[str], flow: list[str], configuration, tmp_path: Path):
    cfg = configuration("train", *words, *flow, "head=parallel", "tokens=uniform_256")
    with pytest.raises(ValueError, match="a flow says no codes: choose head=none tokens=none"):
        fine_tune(cfg, tmp_path / "run", resume_command="")


def test_codes_need_a_head(words: list[str], configuration, tmp_path: Path):
    cfg = configuration("train", *words, "adapter=lora_r2", "head=none", "tokens=none")
    with pytest.raises(ValueError, match=r"speaks codes: choose a head and tokens \(head=parallel tokens=uniform_256\)"):
        fine_tune(cfg, tmp_path / "run", resume_command="")


@pytest.mark.ci  # the whole way
def test_a_laboratorys_own_kind_of_model(words: list[str], flow: list[str], configuration, tmp_path: Path):
    """It draws its actions: trained, tried, probed, merged, exported, checked and served as ours are."""
    run, robot = tmp_path / "run", tmp_path / "robot"
    fine_tune(configuration("train", *words, *flow, "training.steps=30"), run, resume_command="")
    results = json.loads((run / "results.json").read_text())
    assert [row["policy"] for row in results["evaluation"]] == ["fine_tuned"]
    assert json.loads((run / "contract.json").read_text())["model"] == {"family": "my_flow.FlowCheckpoint"}
    assert results["training"]["training_loss"] < 2
    trusted = [*OWN, "my_flow.FlowCheckpoint"]
    with trusting(trusted):
        merge_run(configuration("merge", f"run={run}", "observations=6", *LOOSE))
        export_run(configuration("export", f"run={run}", f"to={robot}", "frames=2", "observations=6", *LOOSE))
        check(configuration("check", f"policy={robot}", "device=cpu"))
        served = _policies(configuration("serve", f"policy={robot}", "device=cpu")).examined(unproved=False)
        assert [finding.passed for finding in served] == [True]
        live, merged = (load_policy(folder, rows=2, device="cpu").policy for folder in (run, robot))
        seen = recorded_observations(data_of(run), count=4)
        np.testing.assert_allclose(live.act(seen), merged.act(seen), atol=1e-4)
    with pytest.raises(ValueError, match=r"my_flow\.FlowCheckpoint.*not opened unseen.*trusted="):
        load_policy(robot, rows=1, device="cpu")
