import errno
import json
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from vla_tune.training.checkpoint import (
    OPTIMIZER,
    OPTIMIZER_RECORD,
    STATE,
    TRAINED,
    Checkpoint,
    CheckpointFolder,
    load_trained,
    restore_parameters,
)
from vla_tune.training.peak_memory import peak_bytes, watch_peak


def checkpoint(step: int, **state) -> Checkpoint:
    return Checkpoint(
        step=step,
        trained={"weight": torch.full((2, 3), float(step)), "bias": torch.ones(3, dtype=torch.bfloat16)},
        optimizer_tensors={"weight::exp_avg": torch.full((2, 3), step / 3)},
        optimizer_record={"groups": [], "values": {}, "on_host": [], "kind": "AdamW"},
        state=state,
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def killed(action: Callable[[], object]) -> int:
    """Run `action` in a forked process and return the signal that ended it (0: none)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads: the child uses none of them
        child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killing_call(function: Callable, number: int) -> Callable:
    """`function`, but its call with this number ends in `kill -9`."""
    calls = iter(range(number + 1))

    def call(*arguments, **keywords):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    return call


@settings(max_examples=15, deadline=None)  # each flushes seven times to the disk
@given(
    st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]), min_size=1, max_size=4),
    st.integers(0, 10**7),
)
def test_save_then_load(tmp_path_factory, dtypes, step: int) -> None:
    folder = CheckpointFolder(tmp_path_factory.mktemp("run"), keep_last=1)
    tensors = {f"layer.{number}": torch.randint(0, 100, (number + 1, 2)).to(dtype) for number, dtype in enumerate(dtypes)}
    scalar = {"layer.0::step": torch.tensor(3.0)}
    folder.save(
        Checkpoint(step=step, trained=tensors, optimizer_tensors=scalar, optimizer_record={"kind": "x"}, state={"a": [1.1]})
    )
    loaded = folder.load(step)
    assert loaded.trained.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.trained[name].dtype == tensor.dtype
        assert torch.equal(loaded.trained[name], tensor)
    assert loaded.optimizer_tensors["layer.0::step"].shape == ()
    assert loaded.optimizer_record == {"kind": "x"}
    assert loaded.state == {"step": step, "a": [1.1]}


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    assert folder.last() is None
    assert folder.best() is None
    for step in (10, 20, 30, 40, 50):
        folder.save(checkpoint(step, best_step=20 if step >= 20 else None))
    assert names(tmp_path) == ["step_000020", "step_000040", "step_000050"]
    assert folder.last() == tmp_path / "step_000050"
    assert folder.best() == tmp_path / "step_000020"
    folder.save(checkpoint(60, best_step=60))
    assert names(tmp_path) == ["step_000050", "step_000060"]
    assert folder.best() == tmp_path / "step_000060"


@pytest.mark.parametrize("moment", range(7))  # five fsyncs before the rename, the rename, the fsync after it
def test_kill_9_during_a_save_leaves_a_loadable_run(tmp_path: Path, moment: int, monkeypatch) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save(checkpoint(1))
    if moment == 5:
        monkeypatch.setattr(Path, "rename", killing_call(Path.rename, 2))  # after those of the two files of tensors
    else:
        monkeypatch.setattr(os, "fsync", killing_call(os.fsync, min(moment, 5)))
    assert killed(lambda: folder.save(checkpoint(2))) == signal.SIGKILL
    monkeypatch.undo()

    expected = 2 if moment == 6 else 1
    assert folder.steps()[-1] == expected
    assert torch.equal(folder.load(expected).trained["weight"], torch.full((2, 3), float(expected)))
    folder.save(checkpoint(3))
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    assert folder.steps() == [expected, 3]


@pytest.mark.parametrize("moment", [0, 1])
def test_kill_9_during_the_removal_of_an_old_checkpoint(tmp_path: Path, moment: int, monkeypatch) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    folder.save(checkpoint(1))
    monkeypatch.setattr(os, "unlink", killing_call(os.unlink, 2 + moment))  # after the temporary names of two files
    assert killed(lambda: folder.save(checkpoint(2))) == signal.SIGKILL
    monkeypatch.undo()
    assert folder.steps() == [2]
    assert folder.load(2).step == 2
    folder.save(checkpoint(3))
    assert names(tmp_path) == ["step_000003"]


def test_a_write_that_fails_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A real failure of the operating system: files may not grow beyond 1000 bytes."""
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save(checkpoint(1))
    large = Checkpoint(step=2, trained={"w": torch.zeros(10_000)}, optimizer_tensors={}, optimizer_record={}, state={})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"Could not save step 2 .*step_000001 is intact") as caught:
            folder.save(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step_000001"]
    assert folder.load(1).step == 1


def test_a_full_disk_while_json_is_written(tmp_path: Path, monkeypatch) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)

    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device; no checkpoint exists yet") as caught:
        folder.save(checkpoint(1))
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", [TRAINED, OPTIMIZER, OPTIMIZER_RECORD, STATE])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damage_is_named_with_the_way_back(tmp_path: Path, name: str, damage: str) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save(checkpoint(1))
    file = folder.save(checkpoint(2)) / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:-2])
    fault = "missing or damaged .*"
    if name.endswith(".safetensors"):
        fault = {"cut": "damaged or cut short .*", "removed": "missing"}[damage]
    with pytest.raises(ValueError, match=rf"{name} is {fault}: remove .*step_000002 to continue from .*step_000001\.$"):
        folder.load(2)
    (folder.folder(1) / name).write_bytes(b"")
    with pytest.raises(ValueError, match="there is no earlier checkpoint"):
        folder.load(1)


def test_trained_parameters_return_exactly(tmp_path: Path) -> None:
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    model.bias.requires_grad_(False)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    folder = CheckpointFolder(tmp_path, keep_last=1)
    saved = folder.save(Checkpoint(step=1, trained={"weight": model.weight}, optimizer_tensors={}, optimizer_record={}, state={}))
    nn.init.zeros_(model.weight)
    load_trained(model, saved)
    assert torch.equal(model.weight, weight)
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"1 tensors missing \(first \['bias'\]\), 0 left over"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)},
            r"0 tensors missing .*, 1 left over \(first \['more'\]\)",
        ),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
            r"weight is torch.float32 \(3, 2\), the model has torch.float32 \(2, 3\)",
        ),
        ({"weight": torch.zeros(2, 3).half(), "bias": torch.zeros(2)}, "torch.float16 .*, the model has torch.float32"),
    ],
)
def test_restoring_is_strict(saved, message: str) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        restore_parameters(dict(model.named_parameters()), saved, source="here")
    assert torch.equal(model.weight, before)


def test_files_are_what_the_format_says(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1).save(checkpoint(7, note="x"))
    assert names(folder) == sorted([TRAINED, OPTIMIZER, OPTIMIZER_RECORD, STATE])
    assert load_file(folder / TRAINED)["bias"].dtype == torch.bfloat16
    assert json.loads((folder / STATE).read_text()) == {"step": 7, "note": "x"}


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    """As the lookup tables of an 8-bit optimizer do; safetensors alone refuses them."""
    table = torch.arange(4.0)
    with pytest.raises(RuntimeError, match="share memory"):
        save_file({"a": table, "b": table}, tmp_path / "refused.safetensors")
    folder = CheckpointFolder(tmp_path / "run", keep_last=1)
    folder.save(Checkpoint(step=1, trained={}, optimizer_tensors={"a": table, "b": table}, optimizer_record={}, state={}))
    assert torch.equal(folder.load(1).optimizer_tensors["b"], table)


def test_keep_last_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last=0"):
        CheckpointFolder(tmp_path, keep_last=0)


def test_a_full_disk_at_any_write_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch) -> None:
    """Each file and folder is flushed once: the n-th of them finds the disk full."""
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save(checkpoint(1))
    flush = os.fsync
    for moment in range(5):
        calls = iter(range(100))

        def full(descriptor: int, moment=moment, calls=calls) -> None:
            if next(calls) == moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"Could not save step 2 .*No space left on device; .*step_000001 is intact\. Free"):
            folder.save(checkpoint(2))
        assert names(tmp_path) == ["step_000001"]
    monkeypatch.undo()
    folder.save(checkpoint(2))
    assert folder.steps() == [1, 2]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=2)
    folder.save(checkpoint(1))

    def read_only(*_, **__) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)  # root may write anywhere, so a mode would not do
    with pytest.raises(OSError, match=r"Could not save step 2 .*Read-only file system; .*step_000001 is intact") as caught:
        folder.save(checkpoint(2))
    assert "\n" not in str(caught.value)


def test_a_save_makes_no_second_copy_of_the_model(tmp_path: Path) -> None:
    one = 4 * 2**20
    tensors = {f"layer.{number}": torch.ones(one // 4) for number in range(16)}
    folder, cpu = CheckpointFolder(tmp_path, keep_last=1), torch.device("cpu")
    folder.save(checkpoint(1))
    watch_peak(cpu)
    before = peak_bytes(cpu)
    folder.save(Checkpoint(step=2, trained=tensors, optimizer_tensors=tensors, optimizer_record={}, state={}))
    assert peak_bytes(cpu) - before < 3 * one
    assert torch.equal(folder.load(2).optimizer_tensors["layer.15"], tensors["layer.15"])


@pytest.mark.parametrize(
    "state", ['{"best_step": "../../x"}', '{"best_step": [1]}', '{"best_step": 1e400}', "[1]", "[" * 100_000, "{"]
)
def test_a_state_that_makes_no_sense_is_one_line(tmp_path: Path, state: str) -> None:
    folder = CheckpointFolder(tmp_path, keep_last=1)
    (tmp_path / "step_000002").mkdir()
    (tmp_path / "step_later").mkdir()
    (tmp_path / "step_000002" / "state.json").write_text(state)
    assert folder.steps() == [2]
    with pytest.raises(ValueError, match=r"state\.json (has best_step=|is missing or damaged)"):
        folder.best()
