from pathlib import Path

from vla_tune.evaluation.report import write_results
from vla_tune.evaluation.stats import success_row
from vla_tune.run.sweep import _rows


class Outcome:
    success = True
    key = ("suite", "lift", 0, 1)


def test_rows_are_named_by_what_differs_between_the_jobs(tmp_path: Path) -> None:
    row = success_row(policy="fine_tuned", task="lift", records=[Outcome()])
    jobs = []
    for seed in (0, 1):
        write_results(tmp_path / str(seed) / "results.json", evaluation=[row], training={})
        jobs.append([str(tmp_path / str(seed)), "adapter=lora_r16", f"seed={seed}", "evaluation.episodes=1"])
    assert [found["job"] for found in _rows(jobs)] == ["seed=0", "seed=1"]
    assert _rows(jobs[:1])[0]["job"] == "adapter=lora_r16, seed=0, evaluation.episodes=1"
    assert _rows([]) == []
