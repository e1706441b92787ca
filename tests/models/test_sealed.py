"""A folder that we wrote is read as it was written, or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.sealed import SEAL_FILE, file_hash, seal, unbroken


@pytest.fixture
def saved(tmp_path: Path, tiny_model, tiny_tokenizer, tiny_contract) -> Path:
    save_checkpoint(tmp_path / "saved", tiny_model, tiny_tokenizer, tiny_contract)
    return tmp_path / "saved"


def flip(path: Path) -> None:
    """The last bit."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(name: str, **fields: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


CHANGES: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda folder: flip(folder / "model.safetensors"),
    "config.json": edit("config.json", image_resize_strategy="letterbox"),
    "tokenizer.json": lambda folder: (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " "),
    "contract.json": edit("contract.json", execute_steps=1),
    "chat_template.jinja": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "model.safetensors.index.json": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
    "added_tokens.json": lambda folder: (folder / "added_tokens.json").write_text("{}"),
    "tokenizer_config.json": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_named(saved: Path, name: str):
    assert OpenVLACheckpoint(str(saved)).path == saved
    CHANGES[name](saved)
    with pytest.raises(ValueError, match=f"{name} changed since the folder was written") as caught:
        OpenVLACheckpoint(str(saved)).path  # noqa: B018 (it is read)
    assert "\n" not in str(caught.value)


def test_what_decides_nothing_may_come_and_go(saved: Path):
    for name in ("README.md", "manifest.json", "results.json", "probe.safetensors", ".hidden.json"):
        (saved / name).write_text("{}")
    (saved / "evaluation").mkdir()
    assert unbroken(saved) == saved
    (saved / SEAL_FILE).unlink()
    (saved / "config.json").unlink()
    assert unbroken(saved) == saved  # as a folder that others published


def test_a_copy_elsewhere_is_whole(saved: Path, tmp_path: Path):
    shutil.copytree(saved, tmp_path / "copy")
    assert unbroken(tmp_path / "copy") == tmp_path / "copy"
    (tmp_path / "copy" / SEAL_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"sha256\.json is damaged"):
        unbroken(tmp_path / "copy")


def test_a_file_is_read_again_when_it_changes(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"a")
    seal(tmp_path)
    before = file_hash(path)
    path.write_bytes(b"b")
    assert file_hash(path) != before
    with pytest.raises(ValueError, match=r"a\.safetensors changed"):
        unbroken(tmp_path)
