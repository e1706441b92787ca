import errno
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from vla_tune.evaluation.stats import success_row
from vla_tune.run.sweep import SweepTable, _choices, _rows
from vla_tune.schema import write_json


class Outcome:
    success = True
    key = ("suite", "lift", 0, 1)


def test_rows_are_named_by_what_differs_between_the_jobs(tmp_path: Path) -> None:
    row = success_row(policy="fine_tuned", task="lift", records=[Outcome()])
    jobs = []
    for seed in (0, 1):
        write_json(tmp_path / str(seed) / "results.json", {"evaluation": [row], "training": {}})
        jobs.append([str(tmp_path / str(seed)), "adapter=lora_r16", f"seed={seed}", "evaluation.episodes=1"])
    assert [found["job"] for found in _rows(jobs, "evaluation")] == ["seed=0", "seed=1"]
    assert _rows(jobs[:1], "evaluation")[0]["job"] == "adapter=lora_r16, seed=0, evaluation.episodes=1"
    assert _rows([], "evaluation") == []


def test_a_named_sweeps_rows_are_its_choices_over_the_seeds(tmp_path: Path) -> None:
    jobs = []
    for adapter in ("lora_r1", "lora_r2"):
        for seed in (0, 1):
            folder = tmp_path / f"{adapter}-{seed}"
            write_json(folder / "results.json", {"evaluation": [], "training": {"name": f"{adapter}-{seed}"}})
            jobs.append([str(folder), "sweep=rank_tradeoff", f"adapter={adapter}", f"seed={seed}"])
    choice, runs = _choices(jobs)
    assert choice == "adapter"
    assert {name: [run["training"]["name"] for run in found] for name, found in runs.items()} == {
        "lora_r1": ["lora_r1-0", "lora_r1-1"],
        "lora_r2": ["lora_r2-0", "lora_r2-1"],
    }
    wider = [[*job, f"adapter.alpha={alpha}"] for alpha in (16, 32) for job in jobs]
    assert list(_choices(wider)[1]) == [
        f"adapter={adapter}, adapter.alpha={alpha}" for alpha in (16, 32) for adapter in ("lora_r1", "lora_r2")
    ]


@pytest.fixture
def sweep(tmp_path: Path):
    """Two finished jobs of a sweep, whose table is gathered."""
    row = success_row(policy="fine_tuned", task="lift", records=[Outcome()])
    for seed in (0, 1):
        write_json(tmp_path / "runs" / str(seed) / "results.json", {"evaluation": [row], "training": {}})
    where = {"sweep": {"dir": str(tmp_path / "runs")}, "runtime": {"choices": {}}}

    def job(seed: int):
        own = {"output_dir": str(tmp_path / "runs" / str(seed))}
        overrides = {"task": [f"seed={seed}"]}
        return OmegaConf.create({"hydra": {"runtime": own, "job": {"num": seed, "name": "train"}, "overrides": overrides}})

    def gather() -> Path:
        table = SweepTable()
        whole = OmegaConf.create({"hydra": where | {"job": {"name": "train"}, "overrides": {"task": ["seed=0,1"]}}})
        table.on_multirun_start(whole)
        for seed in (0, 1):
            table.on_job_end(job(seed), JobReturn(status=JobStatus.COMPLETED))
        table.on_multirun_end(whole)
        (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
        return folder

    return gather


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_table_that_cannot_be_written_ends_the_sweep_and_the_next_start_writes_it(number: int, sweep, disk, tmp_path, capsys):
    """Hydra would warn, and end well without a table or with one that misses a job. Each write is refused once."""
    sweep()
    with disk.watching(tmp_path):
        whole = contents(sweep())
    assert {"results.json", "success.png"} < whole.keys()
    capsys.readouterr()  # on a machine without its list, matplotlib may have said that it looks for fonts
    for refused in range(len(disk.changes)):
        with disk.watching(tmp_path, refuses=refused, number=number), pytest.raises(SystemExit) as ended:
            sweep()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: the table of the sweep could not be written")
        assert "give the same command again" in said
        assert not [path.name for path in (tmp_path / "runs").rglob(".*")]
    assert contents(sweep()) == whole


def test_a_killed_sweep_leaves_nothing_that_the_next_one_reads(sweep, disk, tmp_path: Path):
    whole = contents(sweep())
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    (folder / "0007.job").write_text("elsewhere\nseed=7\n")
    (folder / ".0001.job.12345.partial").write_text("half")
    assert contents(sweep()) == whole
