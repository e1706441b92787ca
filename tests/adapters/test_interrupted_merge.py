"""A merge that is cut short leaves nothing under the name of the folder, and the next one ends as if there had been none."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from vla_tune.adapters import Lora
from vla_tune.adapters.merging import merged
from vla_tune.bench import own_process
from vla_tune.bench.merge_suite import Merging
from vla_tune.bench.synthetic import random_adapter, random_checkpoint
from vla_tune.models.files import content_hash, new_folder
from vla_tune.models.openvla.load import load_config, weights
from vla_tune.models.openvla.tiny import tiny_config
from vla_tune.models.weights import Weights

ADAPTER = Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"])
SLOW = """
import sys
from pathlib import Path
from vla_tune.models.files import new_folder
with new_folder(Path(sys.argv[1])) as temporary:
    (temporary / "model.safetensors").write_bytes(b"half of the weights")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def merging(tmp_path: Path) -> Merging:
    architecture = tmp_path / "architecture"
    tiny_config().save_pretrained(architecture)
    random_checkpoint(tmp_path / "base", architecture=architecture, seed=0)
    random_adapter(tmp_path / "adapter", ADAPTER, checkpoint=tmp_path / "base", seed=0)
    return Merging(tmp_path / "base", ADAPTER, tmp_path / "adapter")


def written_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_half_way_leaves_nothing(merging: Merging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, asked = names(tmp_path), []

    def failing(base, changes, *, dtype):
        whole = merged(base, changes, dtype=dtype)

        def made(name: str) -> torch.Tensor:
            asked.append(name)
            if len(asked) == 10:
                raise KeyboardInterrupt
            return whole[name]

        return Weights(list(whole), made)

    monkeypatch.setattr("vla_tune.bench.merge_suite.merged", failing)
    with pytest.raises(KeyboardInterrupt):
        merging(tmp_path / "out")
    assert len(asked) == 10
    assert names(tmp_path) == before
    monkeypatch.undo()
    merging(tmp_path / "out")
    assert content_hash(tmp_path / "out") != content_hash(tmp_path / "base")


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of writing `out`; it would never end."""
    command = [sys.executable, "-c", SLOW, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def test_a_killed_process_leaves_no_folder_and_the_next_one_clears_up(tmp_path: Path, writing: subprocess.Popen[bytes]):
    target = tmp_path / "out"
    writing.kill()
    assert writing.wait(60) == -signal.SIGKILL
    assert not target.exists()
    assert names(tmp_path) == [f".out.{writing.pid}.partial"]
    with new_folder(target) as temporary:
        (temporary / "whole").touch()
    assert names(tmp_path) == ["out"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, writing: subprocess.Popen[bytes]):
    with new_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == [f".out.{writing.pid}.partial", "out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"file/out cannot be written \(Not a directory\): choose a folder that can"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid() != 0:  # root writes everywhere
        with pytest.raises(OSError, match="Permission denied"), new_folder(closed / "out"):
            pass


@pytest.mark.slow  # it starts a process, and needs weights that are large against what an interpreter takes
@pytest.mark.parametrize("base", ["bf16", "nf4"])
def test_no_more_than_two_of_the_largest_tensor_are_in_memory(tmp_path: Path, base: str):
    record = tiny_config()
    record.text_config.vocab_size = 40_064
    record.text_config.num_hidden_layers = 24
    record.text_config.hidden_size = record.text_config.intermediate_size = 1024
    record.text_config.head_dim = 1024 // record.text_config.num_attention_heads
    record.save_pretrained(tmp_path / "architecture")
    random_checkpoint(tmp_path / "base", architecture=tmp_path / "architecture", seed=0)
    adapter = Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"], base=base)
    random_adapter(tmp_path / "adapter", adapter, checkpoint=tmp_path / "base", seed=0)
    tensors = weights(tmp_path / "base", load_config(tmp_path / "base"), base="bf16")
    sizes = [tensor.nbytes for tensor in tensors.values()]
    merging = Merging(tmp_path / "base", adapter, tmp_path / "adapter")
    took = own_process.in_its_own_process(partial(merging, tmp_path / "out"), written_bytes, threads=1)
    assert took.found > 0.99 * sum(sizes) > 4 * max(sizes)
    learned = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert took.added_bytes <= 2 * max(sizes) + learned + 20_000_000
