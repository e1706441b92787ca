"""A random tiny checkpoint in production's precision."""

from dataclasses import replace
from pathlib import Path

import pytest

from vla_tune.models.openvla.save import save_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    folder = tmp_path / "base"
    save_checkpoint(folder, tiny_model, tiny_tokenizer, replace(tiny_contract, precision="bf16"))
    return folder
