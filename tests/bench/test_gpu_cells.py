"""Cells on a GPU (`-m gpu`); they need neither Hydra nor what lies to the right of `bench`."""

from pathlib import Path

import pytest

from vla_tune.bench.command import suite_of


@pytest.mark.gpu
def test_a_gpu_counts_its_bytes_and_replays_what_it_compiled(architecture: Path, tmp_path: Path):
    quick = ["seconds_per_cell=0.1", "matmul_size=1024", "copy_bytes=100000000", "batches=8", "compiled_batches=8"]
    rows = suite_of([f"architecture={architecture}", f"output={tmp_path}/rows.json", "device=cuda", *quick]).rows()
    assert [row["status"] for row in rows] == ["measured"] * (1 + 2 * 2 * 3 + 3 * 2)
    assert all(row["peak_bytes"] > 0 for row in rows if row["part"] == "training")
