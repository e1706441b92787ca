"""A run is planned before its weights are read, and refused where it does not fit."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from vla_tune.models.base import Outline
from vla_tune.models.openvla.load import empty_model, load_config
from vla_tune.run import fit
from vla_tune.run.fine_tune import fine_tune
from vla_tune.run.fit import check_fit

CONF = Path(__file__).parents[2] / "conf"
ASSETS = Path(__file__).parents[2] / "vla_tune" / "assets"
SMALL_BATCH = ["training.batch_size=1", "training.gradient_accumulation=64"]
TABLETOPS = ["training.steps=150", "training.batch_size=64", "horizon=4"]


def cfg_of(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("train", overrides=list(overrides))


def without_numbers(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A file of bfloat16 weights with a header, and a hole where the numbers would be."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenVLA-7B's 15 GB of weights, which take no place on the disk."""
    folder, published = tmp_path_factory.mktemp("base"), ASSETS / "openvla_7b"
    (folder / "config.json").write_text((published / "config.json").read_text())
    shapes = {name: tuple(weight.shape) for name, weight in empty_model(load_config(published)).state_dict().items()}
    without_numbers(folder / "model.safetensors", shapes)
    return folder


@pytest.fixture
def words(base: Path) -> list[str]:
    large = ["model=openvla_7b", f"model.folder={base}", "model.cache=null", "adapter=qlora_r16", "head=autoregressive"]
    return [*large, "data=folder", "data.sources.0.folder=/nowhere", *TABLETOPS]


def test_the_base_has_the_size_of_the_published_one(base: Path):
    assert (base / "model.safetensors").stat().st_size > 15e9
    assert fit.counted_parameters(base) == 7_541_237_184


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("gpu=rtx4090", "113.2 GB of the 23.8 GB that NVIDIA GeForce RTX 4090"),
        ("device=auto", "7.5 billion parameters and would be trained on the CPU. Torch sees no GPU"),
        pytest.param("device=cpu", "of the .* that this computer's CPU has", marks=pytest.mark.ci),
    ],
)
def test_seven_billion_are_refused_before_anything_is_read(where: str, said: str, words: list[str], tmp_path: Path, monkeypatch):
    """Neither the data, which are not there, nor a byte of the weights."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("vla_tune.check.machine._DRIVER", tmp_path / "none")
    monkeypatch.setattr("vla_tune.plan.device.computer_memory", lambda: 24 * 2**30)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=said) as caught:
        fine_tune(cfg_of(*words, where), tmp_path / "run", resume_command="again")
    assert ("checkpointing=true" in str(caught.value)) == (where != "device=auto")
    assert ("fit=ignore" in str(caught.value)) == (where != "device=auto")
    assert "(It would not fit either: 143.7 GB of the 19.8 GB" in str(caught.value) or where != "device=auto"
    assert not (tmp_path / "run").exists()


def test_what_is_advised_is_not_refused(words: list[str]):
    check_fit(cfg_of(*words, "gpu=rtx4090", "device=cpu", *SMALL_BATCH))


def test_fit_ignore_tells_it_and_goes_on(words: list[str], capsys: pytest.CaptureFixture[str]):
    check_fit(cfg_of(*words, "gpu=rtx4090", "device=cpu", "fit=ignore"))
    said = capsys.readouterr().err
    assert said.startswith("fit=ignore: ")
    assert "113.2 GB of the 23.8 GB" in said
    assert len(said.splitlines()) == 1


def test_the_main_job_fits_and_says_nothing(capsys: pytest.CaptureFixture[str]):
    check_fit(cfg_of("adapter=qlora_r16"))
    assert capsys.readouterr() == ("", "")


class Unheard:
    """A checkpoint that tells nothing about its architecture."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


def unheard(folder: Path, **shapes: tuple[int, ...]) -> DictConfig:
    folder.mkdir(exist_ok=True)
    if shapes:
        without_numbers(folder / "model.safetensors", shapes)
    return cfg_of(f"model._target_={__name__}.Unheard", f"model.folder={folder}", "adapter=lora_r16", "device=cpu", "gpu=rtx3060")


def test_what_cannot_be_planned_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    check_fit(unheard(tmp_path, weight=(1000, 1000)))
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        "No plan of this run was made (Unheard cannot be planned: it does not tell its architecture without its weights.): its "
        "weights alone take 2 MB of the 11.4 GB of NVIDIA GeForce RTX 3060."
    )
    with pytest.raises(ValueError, match=r"does not fit: its weights alone take 12\.0 GB of the 11\.4 GB"):
        check_fit(unheard(tmp_path, weight=(60_000, 100_000)))


class Mumbling(Unheard):
    """One whose architecture is not to be found."""

    def outline(self) -> Outline:
        raise FileNotFoundError("there is no config.json")


def test_what_can_neither_be_planned_nor_counted(tmp_path: Path):
    mumbling = OmegaConf.merge(unheard(tmp_path / "empty"), {"model": {"_target_": f"{__name__}.Mumbling"}})
    with pytest.raises(ValueError, match=r"neither be planned \(there is no config\.json\).*fit=ignore"):
        check_fit(cast(DictConfig, mumbling))


def test_what_tells_nothing_about_itself_is_passed_over_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    check_fit(unheard(tmp_path / "empty"))
    (said,) = capsys.readouterr().err.splitlines()
    assert "neither be planned (Unheard cannot be planned: " in said
    assert said.endswith("nobody knows whether it fits.")


@pytest.mark.parametrize("fits", [True, False])
def test_a_model_of_the_hub_is_described_by_its_small_files(fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("vla_tune.models.hub.snapshot_download", download)
    without_numbers(tmp_path / "model.safetensors", {"weight": (1000 if fits else 7 * 10**6, 1000)})
    cfg = cfg_of("model=qwen2_5_vl_3b", "head=autoregressive", "adapter=lora_r16", "device=cpu", "gpu=rtx3060", *TABLETOPS)
    if fits:
        check_fit(cfg)
    else:
        with pytest.raises(ValueError, match="weights alone take"):
            check_fit(cfg)
    ((name, patterns),) = asked
    assert name == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert not [pattern for pattern in patterns if "safetensors" in pattern or ".pt" in pattern]


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device=cuda: .*Say device=cpu"):
        check_fit(cfg_of("adapter=lora_r16", "device=cuda"))
