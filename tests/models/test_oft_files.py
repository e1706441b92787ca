"""Published OpenVLA-OFT folders; what the original computes from them is in `test_golden_oft`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla_tune.data.transforms import Scale
from vla_tune.models.files import content_hash
from vla_tune.models.hub import WANTED
from vla_tune.models.openvla import OpenVLACheckpoint
from vla_tune.models.openvla.load import load, load_config
from vla_tune.models.openvla.oft_files import PATTERNS, oft_files, oft_tensors
from vla_tune.models.openvla.published import published_contract
from vla_tune.models.openvla.record import record_of
from vla_tune.models.openvla.statistics_file import known_statistics, statistics_record
from vla_tune.schema import Camera, Embodiment, Group, Normalization

OFT = Path(__file__).parents[1] / "golden" / "oft"


def tensors(file: str, prefix: str) -> dict[str, torch.Tensor]:
    held = load_file(OFT / f"{file}.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}


HEAD, PROPRIO = tensors("heads", "action_head."), tensors("heads", "proprio_projector.")


@pytest.fixture
def folder(fused, tmp_path: Path) -> Path:
    shutil.copytree(fused.folder, tmp_path / "published")
    return tmp_path / "published"


def put(folder: Path, part: str, content: Any, step: int = 150000) -> Path:
    path = folder / f"{part}--{step}_checkpoint.pt"
    torch.save(content, path)
    return path


def filmed(folder: Path) -> dict[str, torch.Tensor]:
    """The vision towers as `vision_backbone--*` has them."""
    own = load_file(folder / "model.safetensors")
    wrapped = {}
    for name, tensor in own.items():
        parts = name.split(".")
        if parts[0] == "vision_backbone":
            wrapped[".".join([*parts[:4], "block", *parts[4:]] if parts[2] == "blocks" else parts)] = tensor
    return wrapped | load_file(OFT / "film.safetensors")


def test_without_oft_files_nothing_changes(folder: Path):
    assert oft_files(folder) == {}
    assert oft_tensors(folder) == {}
    assert OpenVLACheckpoint(str(folder)).content_hash() == content_hash(folder)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_head_and_projector(folder: Path, prefix: str):
    """With the prefix that distributed training puts in front, and without."""
    put(folder, "action_head", {f"{prefix}{name}": tensor for name, tensor in HEAD.items()})
    put(folder, "proprio_projector", {f"{prefix}{name}": tensor for name, tensor in PROPRIO.items()})
    config = load_config(folder)
    assert (config.action_head_dimension, config.proprio_dimension, config.film_dimension) == (7, 8, 0)
    model = load(folder, base="fp32")
    assert torch.equal(model.action_head.model.fc1.weight, HEAD["model.fc1.weight"])
    assert torch.equal(model.proprio_projector.fc2.bias, PROPRIO["fc2.bias"])


def test_unmerged_lora_of_the_vision_towers(folder: Path):
    """W + 0.5 B A at rank 32 (alpha is 16), for a linear layer and a convolution; all of the towers is replaced."""
    state, base = filmed(folder), load_file(folder / "model.safetensors")
    linear, conv = "vision_backbone.featurizer.blocks.1.block.attn.qkv", "vision_backbone.featurizer.patch_embed.proj"
    generator = torch.Generator().manual_seed(0)
    changes = {}
    for name, down, up in ((linear, (32, 64), (192, 32)), (conv, (32, 3, 14, 14), (64, 32, 1, 1))):
        state[f"{name}.base_layer.weight"] = state.pop(f"{name}.weight")
        state[f"{name}.base_layer.bias"] = state.pop(f"{name}.bias")
        a, b = torch.randn(down, generator=generator), torch.randn(up, generator=generator)
        state |= {f"{name}.lora_A.default.weight": a, f"{name}.lora_B.default.weight": b}
        changes[name.replace(".block.", ".") + ".weight"] = 0.5 * (b.flatten(1) @ a.flatten(1))
    path = put(folder, "vision_backbone", state)
    read = oft_tensors(folder)
    assert read.keys() == {name for name in base if name.startswith("vision_backbone")} | load_file(OFT / "film.safetensors").keys()
    for name, tensor in read.items():
        expected = load_file(OFT / "film.safetensors").get(name, base.get(name))
        assert expected is not None
        change = changes.get(name, torch.zeros(1))
        torch.testing.assert_close(tensor.float(), expected.float() + change.reshape(expected.shape if name in changes else (1,)))
    assert load_config(folder).film_dimension == 32
    load(folder, base="fp32")
    del state[f"{linear}.lora_B.default.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"the LoRA of .*blocks.1.block.attn.qkv is incomplete"):
        oft_tensors(folder)


def test_several_steps_are_refused(folder: Path):
    put(folder, "action_head", HEAD)
    put(folder, "action_head", HEAD, step=50000)
    with pytest.raises(ValueError, match="keep the action_head of the step that you want"):
        load_config(folder)


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("action_head", {"noise_predictor.weight": torch.ones(2, 2)}, "should hold the L1 action head has no matrix"),
        ("proprio_projector", {"fc1.weight": torch.ones(2)}, r"has no matrix fc1\.weight"),
        ("action_head", HEAD | {"more": torch.ones(2)}, r"0 tensors missing .*, 1 left over \(first \['action_head.more'\]\)"),
        (
            "action_head",
            {k: v for k, v in HEAD.items() if k != "model.fc2.bias"},
            r"1 tensors missing .*action_head.model.fc2.bias",
        ),
    ],
)
def test_files_of_another_kind(folder: Path, part: str, content: dict[str, torch.Tensor], message: str):
    put(folder, part, content)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_the_hash_knows_the_files(folder: Path):
    checkpoint, hashes = OpenVLACheckpoint(str(folder)), []
    for content in ({}, HEAD, {name: 2 * tensor for name, tensor in HEAD.items()}):
        if content:
            put(folder, "action_head", content)
        hashes.append(checkpoint.content_hash())
    assert len(set(hashes)) == 3


def test_a_merged_folder_needs_no_files(folder: Path, tmp_path: Path):
    """What is written has the additions among its weights."""
    put(folder, "action_head", HEAD)
    put(folder, "proprio_projector", PROPRIO)
    states(folder, 8)
    contract = oft_contract(folder)
    model = load(folder, base="fp32")
    (tmp_path / "written").mkdir()
    OpenVLACheckpoint(str(folder)).write(tmp_path / "written", dict(model.named_parameters()), contract)
    assert oft_files(tmp_path / "written") == {}
    again = dict(load(tmp_path / "written", base="fp32").named_parameters())
    assert all(torch.equal(weight, again[name]) for name, weight in model.named_parameters())


def body(states: int) -> Embodiment:
    def group(dimension: int, *, normalized: bool) -> Group:
        shape: dict[str, Any] = {
            "dimension": dimension,
            "normalization": "quantile" if normalized else "none",
            "name": f"part{dimension}",
            "unit": "1",
            "frame": "none",
        }
        return Group(**shape, representation="absolute", rotation="none", gripper=None)

    cameras = tuple(Camera(role=role, key=role, height=224, width=224) for role in ("front", "wrist"))
    action = (group(6, normalized=True), group(1, normalized=False))
    keys = {"name": "arm", "state_key": "state", "action_key": "action", "control_hz": 20.0}
    return Embodiment(cameras=cameras, state=(group(states, normalized=True),), action=action, **keys)


def oft_contract(folder: Path):
    return published_contract(folder, embodiment=body(8), unnorm_key="tiny_mask", horizon=8, decoding="regression")


def states(folder: Path, dimension: int) -> dict[str, list[float]]:
    """Statistics of a state of `dimension`, written into the folder."""
    path = folder / "dataset_statistics.json"
    record = json.loads(path.read_text())
    column = {name: [values[0]] * dimension for name, values in record["tiny_mask"]["proprio"].items()}
    record["tiny_mask"]["proprio"] = column
    path.write_text(json.dumps(record))
    return column


def test_a_contract_for_a_published_folder(folder: Path):
    states(folder, 8)
    put(folder, "action_head", HEAD)
    put(folder, "proprio_projector", PROPRIO)
    contract, statistics = oft_contract(folder), states(folder, 8)
    assert list(contract.statistics.state.q99) == statistics["q99"]
    assert contract.statistics.state.mask == (True,) * 8
    record = record_of(contract)
    assert (record.decoding, contract.horizon, contract.execute_steps, record.location_codes) == ("regression", 8, 8, 0)
    with pytest.raises(ValueError, match=r"decoding='parallel', and .* has an action head"):
        published_contract(folder, embodiment=body(8), unnorm_key="tiny_mask", horizon=8, decoding="parallel")
    for path in oft_files(folder).values():
        path.unlink()
    with pytest.raises(ValueError, match=r"decoding='regression', and .* has no action head"):
        oft_contract(folder)
    coded = published_contract(folder, embodiment=body(8), unnorm_key="tiny_mask", horizon=8, decoding="parallel")
    assert coded.statistics.state.mask == (False,) * 8, "a model that reads no state needs no scale"


def test_a_robot_with_another_state(folder: Path):
    put(folder, "action_head", HEAD)
    put(folder, "proprio_projector", PROPRIO)
    states(folder, 7)
    with pytest.raises(ValueError, match="scale the state dimensions"):
        oft_contract(folder)
    with pytest.raises(ValueError, match="reads a state of 8 dimensions, the embodiment 'arm' declares 7"):
        published_contract(folder, embodiment=body(7), unnorm_key="tiny_mask", horizon=8, decoding="regression")


ALOHA: dict[str, Any] = {"horizon": 25, "unnorm_key": "aloha", "decoding": "parallel"}


def aloha(folder: Path, **changes: object) -> dict[str, np.ndarray]:
    """Statistics of two arms of seven joints, written into the folder."""
    numbers = np.random.default_rng(0).normal(size=(14, 50))
    ends = {"min": numbers.min(1), "max": numbers.max(1), "q01": np.quantile(numbers, 0.1, 1), "q99": np.quantile(numbers, 0.9, 1)}
    column = {name: values.tolist() for name, values in (ends | {"mean": numbers.mean(1), "std": numbers.std(1)}).items()}
    path = folder / "dataset_statistics.json"
    path.write_text(json.dumps({"aloha": {"action": column | changes, "num_transitions": 50, "num_trajectories": 1}}))
    return ends


def two_arms(normalization: Normalization) -> Embodiment:
    meaning: dict[str, Any] = {"unit": "rad", "frame": "none", "representation": "absolute", "rotation": "none", "gripper": None}
    arms = tuple(Group(name=name, dimension=7, normalization=normalization, **meaning) for name in ("left", "right"))
    return replace(body(8), action=arms)


def test_aloha_is_scaled_by_its_extremes(folder: Path):
    """OFT's constants for ALOHA say BOUNDS, for LIBERO and Bridge BOUNDS_Q99; no file of a checkpoint does."""
    ends = aloha(folder)
    contract = published_contract(folder, embodiment=two_arms("min_max"), **ALOHA)
    values = np.random.default_rng(1).uniform(-1, 1, (25, 14))
    wanted = 0.5 * (values + 1) * (ends["max"] - ends["min"]) + ends["min"]
    np.testing.assert_allclose(Scale(contract.statistics.action).robot_units(values), wanted, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"scale the action dimensions by .*'min_max'.* the embodiment declares .*'quantile'"):
        published_contract(folder, embodiment=two_arms("quantile"), **ALOHA)
    with pytest.raises(ValueError, match=r"predicts 10 x 14 actions, and no file says how they are scaled; known are 1 x 7"):
        published_contract(folder, embodiment=two_arms("min_max"), **ALOHA | {"horizon": 10})
    told = published_contract(folder, embodiment=two_arms("quantile"), **ALOHA | {"horizon": 10, "normalization": "quantile"})
    assert np.allclose(Scale(told.statistics.action).bounds, [ends["q01"], ends["q99"]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": ["false"] * 14}, "not true or false"),
        ({"max": [float("nan")] * 14}, "finite number"),
        ({"min": [1e308] * 14, "max": [1.1e308] * 14}, "these are no statistics"),
        ({"q99": [-9.0] * 14}, "q01.* these are no statistics"),
        ({"std": ["1"] * 14}, "is not a finite number"),
    ],
)
def test_published_statistics_are_read_strictly(folder: Path, changes: dict[str, object], message: str):
    aloha(folder, **changes)
    with pytest.raises(ValueError, match=message):
        published_contract(folder, embodiment=two_arms("min_max"), **ALOHA)


def test_statistics_are_written_with_the_ends_that_are_used(folder: Path):
    """The original knows quantiles only, and clips a state."""
    ends = aloha(folder)
    statistics = published_contract(folder, embodiment=two_arms("min_max"), **ALOHA).statistics
    written = statistics_record(statistics)["aloha"]
    assert written["action"]["q01"] == ends["min"].tolist()
    assert written["proprio"]["mask"] == [False] * 8
    by_deviation = replace(statistics, state=replace(statistics.state, normalization=("mean_std",) * 8))
    assert "proprio" not in statistics_record(by_deviation)["aloha"]


def test_the_hub_is_asked_for_them():
    assert all(Path(pattern.replace("*", "150000")).match(WANTED[-1]) for pattern in PATTERNS)


def test_odd_names_of_data_sets_are_not_printed(folder: Path):
    (folder / "dataset_statistics.json").write_text(json.dumps({"\x1b[2J": {}}))
    with pytest.raises(ValueError, match="odd names"):
        known_statistics(folder)
