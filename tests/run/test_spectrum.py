import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.image import imread
from omegaconf import DictConfig, OmegaConf

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.run.spectrum import spectrum_of_run

CONF = Path(__file__).parents[2] / "conf"


def configuration(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(root, overrides=list(overrides))


@pytest.fixture
def base(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    save_checkpoint(tmp_path / "base", tiny_model, tiny_tokenizer, tiny_contract)
    return tmp_path / "base"


def run_of(base: Path, name: str, *, adapter: str, seed: int) -> Path:
    """What of a finished run is read: its configuration and its adapter."""
    cfg = configuration("train", f"adapter={adapter}", f"model.folder={base}")
    run, checkpoint, method = base.parent / name, OpenVLACheckpoint(str(base)), instantiate(cfg.adapter)
    model = checkpoint.load(device="cpu")
    torch.manual_seed(seed)
    method.attach(model)
    for parameter in method.stored(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    method.save(run / "adapter", model, base_hash=checkpoint.content_hash())
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return run


def test_a_run_is_decomposed_and_compared(base: Path, capsys: pytest.CaptureFixture[str]):
    one, other = (run_of(base, f"run_{seed}", adapter="lora_r4", seed=seed) for seed in (0, 1))
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


def test_what_has_no_spectrum_says_so(base: Path):
    with pytest.raises(FileNotFoundError, match="nowhere is no training run"):
        spectrum_of_run(configuration("spectrum", "run=nowhere"))
    with pytest.raises(ValueError, match="not linear in its input"):
        spectrum_of_run(configuration("spectrum", f"run={run_of(base, 'bottleneck', adapter='houlsby_64', seed=0)}"))
