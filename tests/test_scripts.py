"""Every command once, as a user types it. Slow: the imports alone take ten seconds a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEW = ["evaluation.episodes=2", "evaluation.num_envs=2", "evaluation.rows=2"]

pytestmark = pytest.mark.slow


def run(script: str, *overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)


def test_train_evaluate_merge_and_evaluate_again(tmp_path: Path) -> None:
    few = ["training.steps=3", "schedule.warmup_steps=1", "data.sources.0.episodes=4", "evaluation.remembered=[]", *FEW]
    trained = run("train", "adapter=qlora_r16", *few, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (results,) = (tmp_path / "runs").glob("tiny-qlora_r16-lift*/results.json")
    policy = str(results.parent.relative_to(tmp_path))
    assert [row["policy"] for row in json.loads(results.read_text())["evaluation"]] == ["base", "fine_tuned", "wrong_instruction"]
    # of seven frames, one tipped near-tie between far bins moves the mean
    merged = run(
        "merge", f"run={policy}", "observations=8", "tolerance.token_agreement=0.8", "tolerance.mean_error=0.1", folder=tmp_path
    )
    assert merged.returncode == 0, merged.stderr
    assert "acts as the live one" in merged.stdout
    sweep = run("eval", "-m", f"run={policy},{policy}/merged", "execution=open_loop,receding", *FEW, folder=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    (table,) = (tmp_path / "runs" / "evaluations" / "sweeps").glob("*/results.json")
    rows = json.loads(table.read_text())["evaluation"]
    assert {(row["run"], row["execution"]) for row in rows} == {
        (name, execution) for name in (policy, f"{policy}/merged") for execution in ("OpenLoop", "RecedingHorizon")
    }
    assert (table.parent / "success.png").is_file()
    compared = run("compare", f"runs=[{policy}/merged,{policy}]", "only.execution=OpenLoop", "margin=0.5", folder=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "not worse than" in compared.stdout


def test_a_tokenizer_is_fitted_examined_and_trained_with(tmp_path: Path) -> None:
    few = ["data.sources.0.episodes=4", "tokens=fast_256"]
    fitted = run("tokenizer", *few, "to=tokenizer.json", folder=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert "codes per chunk against 16 bins" in fitted.stdout
    file = ["tokens=fast_file", "tokens.file=tokenizer.json"]
    examined = run("tokens", few[0], *file, "json=tokens.json", folder=tmp_path)
    assert examined.returncode == 0, examined.stderr
    assert json.loads((tmp_path / "tokens.json").read_text())["warnings"] == []
    short = ["training.steps=2", "schedule.warmup_steps=1", "evaluation.remembered=[]", *FEW]
    trained = run("train", few[0], *file, "head=autoregressive", *short, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (contract,) = tmp_path.glob("runs/*/contract.json")
    assert json.loads(contract.read_text())["model"]["action_tokens"]["kind"] == "fast"


def test_pretrain(tmp_path: Path) -> None:
    few = ["grounding.steps=2", "play.frames=40", "play.held_out=10", "training.steps=2", "schedule.warmup_steps=1"]
    made = run("pretrain", *few, "tasks=[touch]", "unseen=[]", *FEW, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    (manifest,) = tmp_path.glob("runs/pretrain*/tiny/manifest.json")
    assert [row["policy"] for row in json.loads(manifest.read_text())["evaluation"]] == ["base", "wrong_instruction"]


def test_record(tmp_path: Path) -> None:
    recorded = run("record", "task=touch", "recording.episodes=2", "to=demonstrations", folder=tmp_path)
    assert recorded.returncode == 0, recorded.stderr
    assert (tmp_path / "demonstrations" / "meta" / "info.json").is_file()


@pytest.mark.parametrize(
    "override",
    ["adapter.rnak=8", "adapter=qlorra", "data=folder data.sources.0.folder=nowhere experiment=tabletop_lift", "task=juggle"],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, override: str) -> None:
    failed = run("train", *override.split(), folder=tmp_path)
    assert failed.returncode == 2
    (line,) = [line for line in failed.stderr.splitlines() if line]
    assert line.startswith("error: ")
    assert not list(tmp_path.rglob("*.yaml"))
    assert not list(tmp_path.rglob("*.parquet"))


def test_plan_imports_little_and_takes_no_weights(tmp_path: Path) -> None:
    """Its promise is 15 seconds, of which torch, transformers and peft take ten or more to import."""
    words = [
        "model=openvla_7b",
        "adapter=qlora_r16",
        "gpu=rtx3060",
        "training.steps=150",
        "training.batch_size=64",
        "json=plan.json",
    ]
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print('loaded', [name for name in LARGE if sys.modules.get(name)])"
    ).replace("LARGE", str(["lerobot", "gymnasium", "mujoco", "matplotlib", "wandb", "datasets"]))
    command = [sys.executable, "-c", program, str(ROOT / "scripts" / "plan.py"), *words]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert planned.returncode == 0, planned.stderr
    assert "loaded []" in planned.stdout
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["total_parameters"] == 7_541_237_184 + 31_588_352
    assert not record["fits"]
    assert record["advice"]
