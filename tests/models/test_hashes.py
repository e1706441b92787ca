import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vla_tune.models import hashes
from vla_tune.models.files import content_hash
from vla_tune.models.hashes import quantized_copy, remembered_hash
from vla_tune.models.nf4 import NF4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "checkpoint", 1.0)
    return tmp_path / "checkpoint"


def write(folder: Path, value: float) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").unlink(missing_ok=True)
    save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors")


@pytest.fixture
def computed(monkeypatch) -> list[Path]:
    """The folders whose weights were read."""
    read: list[Path] = []
    monkeypatch.setattr(hashes, "content_hash", lambda folder: read.append(folder) or content_hash(folder))
    return read


def test_weights_are_read_once(folder, tmp_path, computed):
    for _ in range(3):
        assert remembered_hash(folder, tmp_path / "cache") == content_hash(folder)
    assert computed == [folder]


def test_other_weights_under_the_same_name_are_read_again(folder, tmp_path, computed):
    before = remembered_hash(folder, tmp_path / "cache")
    write(folder, 2.0)
    assert remembered_hash(folder, tmp_path / "cache") == content_hash(folder) != before
    assert len(computed) == 2


@pytest.mark.parametrize("later", [1, 0], ids=["later", "at the same time"])
def test_a_file_changed_in_place_is_read_again(folder, tmp_path, computed, later):
    before = remembered_hash(folder, tmp_path / "cache")
    path = folder / "model.safetensors"
    data, time = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(data[:-1] + b"\x40")
    os.utime(path, ns=(time + later, time + later))
    assert remembered_hash(folder, tmp_path / "cache") != before
    assert len(computed) == 2
    remembered_hash(folder, tmp_path / "cache")
    assert len(computed) == 2


def test_without_a_cache_nothing_is_remembered(folder, computed):
    assert remembered_hash(folder, None) == remembered_hash(folder, None)
    assert len(computed) == 2
    assert quantized_copy(folder, NF4(targets=["*"]), None) is None


def test_a_copy_is_named_by_weights_and_targets(folder, tmp_path):
    cache = tmp_path / "cache"
    some, all_ = NF4(targets=["layers.*"]), NF4(targets=["*"])
    names = {quantized_copy(folder, some, cache), quantized_copy(folder, all_, cache)}
    assert quantized_copy(folder, NF4(targets=["*"], storage="bf16"), cache) in names  # the same bytes by another name
    write(folder, 2.0)
    assert len(names | {quantized_copy(folder, all_, cache)}) == 3
