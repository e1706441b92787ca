import pytest
import torch
from safetensors.torch import load_file

from vla_tune.bench import loading_suite
from vla_tune.bench.loading_suite import LoadingSuite
from vla_tune.bench.synthetic import random_checkpoint
from vla_tune.models.openvla.load import empty_model, load, load_config


def test_a_random_checkpoint_is_read_as_any_other(tmp_path, tiny_architecture):
    folder = tmp_path / "made"
    random_checkpoint(folder, architecture=tiny_architecture, seed=0, shard_bytes=2_000_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) == 3
    assert all(path.stat().st_size < 2_100_000 for path in shards)
    tensors = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert tensors.keys() == empty_model(load_config(tiny_architecture)).state_dict().keys()
    model = load(folder, base="bf16")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    weight = model.language_model.lm_head.weight.float()
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_loader_makes_the_same_bytes_and_says_what_it_took(tmp_path, tiny_architecture, request, alone):
    if not alone:  # starting a process takes longer than all the rest
        request.getfixturevalue("in_this_process")(loading_suite)
    folder = tmp_path / "made"
    rows = LoadingSuite(folder=str(folder), architecture=str(tiny_architecture), threads=1).rows()
    assert [row["work"] for row in rows] == ["from_pretrained, NF4", "NF4", "NF4, hash and copy made", "NF4, from the copy"]
    assert all(row["same_bytes"] for row in rows)
    assert {row["baseline"] for row in rows} == {"from_pretrained, NF4"}
    assert len({row["model_bytes"] for row in rows}) == 1
    assert all(row["peak_bytes"] >= 0 and row["cpu_seconds"] > 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("made", "architecture")] == []  # no copy is left
