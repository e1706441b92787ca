"""A random tiny checkpoint in production's precision, and an architecture like that of 7B."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vla_tune.bench import own_process
from vla_tune.data import build_pipeline
from vla_tune.models.openvla import OpenVLAConfig
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.openvla.tiny import tiny_config
from vla_tune.policy import LocalPolicy


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    folder = tmp_path / "base"
    save_checkpoint(folder, tiny_model, tiny_tokenizer, replace(tiny_contract, precision="bf16"))
    return folder


@pytest.fixture
def policy_of(tiny_model, tiny_head, tiny_tokenizer, tiny_contract) -> Callable[..., LocalPolicy]:
    """The tiny model, untrained, as a policy of so many `rows`."""
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    return partial(LocalPolicy, tiny_head.over(tiny_model), pipeline, tiny_contract, pad_id=512)


@pytest.fixture
def tiny_architecture(tmp_path: Path) -> Path:
    """The tiny model's configuration alone."""
    folder = tmp_path / "architecture"
    tiny_config().save_pretrained(folder)
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Lets the works of a suite's module be done here."""

    def done(work, look, *, threads):
        before = torch.get_num_threads()
        took = own_process.measured(work, look, threads=threads)
        torch.set_num_threads(before)
        return took

    return lambda suite: monkeypatch.setattr(suite, "in_its_own_process", done)


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers of OpenVLA, narrow and shallow: OpenVLA's list of LoRA targets names layers of each."""
    folder = tmp_path_factory.mktemp("architecture")
    tower = {"depth": 2, "num_heads": 2, "embed_dim": 64}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OpenVLAConfig(
        timm_model_ids=["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        image_sizes=[28, 28],
        timm_kwargs=[tower, tower],
        text_config=text | {"num_key_value_heads": 2, "vocab_size": 576, "pad_token_id": 512},
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    return folder
