"""A robot computer reads the contract without torch; which module may import which is import-linter's (`pyproject.toml`)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_robot_computer_reads_the_contract_without_torch():
    program = "import sys, vla_tune.schema; print([name for name in ('torch', 'transformers', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"
