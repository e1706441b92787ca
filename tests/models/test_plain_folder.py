import os
from pathlib import Path

import pytest

from vla_tune.models.plain_folder import plain
from vla_tune.models.sealed import unbroken


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "adapter" / "config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("a secret")
    (tmp_path / "secret" / "model.safetensors").write_text("weights")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "target", ["secret", "secret/key", "secret/nothing", "run/../secret/key", "/proc/self/environ", "/dev/zero"]
)
@pytest.mark.parametrize("name", ["tokenizer.model", "adapter/chat_template.jinja", "probe.safetensors", "model.safetensors"])
def test_no_link_leads_out(folder: Path, name: str, target: str):
    (folder / name).symlink_to(folder.parent / target)
    with pytest.raises(ValueError, match=f"{name} is a link that leads out of .*put the file or folder itself"):
        plain(folder)


def test_a_link_to_a_link_leads_where_the_last_leads(folder: Path):
    (folder / "second").symlink_to(folder.parent / "secret")
    (folder / "first").symlink_to("second/key")
    with pytest.raises(ValueError, match="leads out"):
        plain(folder)


@pytest.mark.parametrize("place", ["state.json", "adapter/state.json"])
def test_nothing_waits_for_another_process(folder: Path, place: str):
    os.mkfifo(folder / place)
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        plain(folder)


def test_links_inside_to_weights_and_of_the_hubs_cache_are_what_they_say(folder: Path, tmp_path: Path):
    (folder / "latest").symlink_to("adapter")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret" / "model.safetensors")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "debug.log").symlink_to("/var/log/anything")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "00ff").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/00ff")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert [plain(each) for each in (folder, snapshot, linked, tmp_path / "nowhere")]
    assert unbroken(snapshot) == snapshot


def test_the_probe_is_no_other_file_of_weights(folder: Path, tmp_path: Path):
    (folder / "probe.safetensors").symlink_to(tmp_path / "secret" / "model.safetensors")
    with pytest.raises(ValueError, match="leads out"):
        unbroken(folder)
