"""`python -m vla_tune.bench` where only the model's libraries are installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = [
    *("lerobot", "gymnasium", "mujoco", "scipy", "pandas", "matplotlib", "rich", "wandb", "datasets", "av", "pyarrow"),
    *("hydra", "omegaconf", "num2words", "hydra_plugins", "beartype"),
]
PROGRAM = '''
import runpy, sys

class Without:
    """Finds what another finder finds, but for what is absent."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = sys.argv[1:]
runpy.run_module("vla_tune.bench", run_name="__main__", alter_sys=True)
'''


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(absent=set(ABSENT)), "bench", *words]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_it_needs_neither_lerobot_nor_gymnasium(architecture: Path, tmp_path: Path):
    quick = ["compiled_batches=", "launches=eager,graphs", "seconds_per_cell=0.01", "matmul_size=64", "copy_bytes=100000"]
    done = run(tmp_path, f"architecture={architecture}", "device=cpu", "batches=1,2", "output=rows.json", *quick)
    assert done.returncode == 0, done.stderr
    assert "15 cells" in done.stdout
    record = json.loads((tmp_path / "rows.json").read_text())
    assert [row["status"] for row in record["rows"]] == ["measured"] * 15
    assert record["machine"]["versions"]["torch"]


@pytest.mark.slow
def test_a_mistake_is_exit_code_2(tmp_path: Path):
    done = run(tmp_path, "batch=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'batch=3' is not understood")
