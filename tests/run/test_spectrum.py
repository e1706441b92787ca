"""`scripts/spectrum.py` on runs over a tiny base."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from vla_tune.run.spectrum import spectrum_of_run


def test_a_run_is_decomposed_and_compared(base: Path, run_of, capsys: pytest.CaptureFixture[str], configuration):
    one, other = (run_of(f"run_{seed}", adapter="lora_r4", seed=seed) for seed in (0, 1))
    spectrum_of_run(configuration("spectrum", f"run={one}", f"against={other}"))
    printed = capsys.readouterr().out
    assert "would keep" in printed
    assert "Overlap of the first input directions" in printed
    written = json.loads((one / "spectrum" / "spectrum.json").read_text())
    assert len(written["layers"]) == 4 * 5
    assert all(0 < layer["effective_rank"] <= 4 for layer in written["layers"].values())
    assert len(written["overlap"]) == 4
    assert (one / "spectrum" / "table.md").read_text().count("\n") == 2 + 20
    height, width, _ = imread(one / "spectrum" / "spectrum.png").shape
    assert min(height, width) > 400
    spectrum_of_run(configuration("spectrum", f"run={one}", f"against={one}", f"to={base.parent / 'itself'}"))
    itself = json.loads((base.parent / "itself" / "spectrum.json").read_text())["overlap"]
    assert all(value == pytest.approx(1.0, abs=1e-3) for row in itself for value in row)


def test_what_has_no_spectrum_says_so(run_of, configuration):
    with pytest.raises(FileNotFoundError, match="nowhere is no training run"):
        spectrum_of_run(configuration("spectrum", "run=nowhere"))
    with pytest.raises(ValueError, match="not linear in its input"):
        spectrum_of_run(configuration("spectrum", f"run={run_of('bottleneck', adapter='houlsby_64', seed=0)}"))
