"""Of robots that are not the tabletop: the gate lets the right merge pass, and none that is wrong."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from vla_tune.adapters import Lora
from vla_tune.adapters.lora import update
from vla_tune.check.parity import Losses, compared, held_out_losses, witness
from vla_tune.data import build_pipeline
from vla_tune.data.collate import collate
from vla_tune.data.recorded import observation_in
from vla_tune.models.heads import ParallelTokenHead
from vla_tune.models.nf4 import plain_weights, quantize
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.inputs import OpenVLAInputs, space_of
from vla_tune.models.openvla.load import OPENVLA_NF4, empty_model, load
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.openvla.tiny import smooth_action_rows, tiny_config
from vla_tune.models.precision import choose_attention
from vla_tune.policy import LocalPolicy
from vla_tune.schema import ColumnStatistics, Contract, Gripper, Group, Statistics

SUCTION = Gripper(engaged=1.0, released=0.0)
bf16 = partial(torch.autocast, "cpu", torch.bfloat16)


def group(name: str, dimension: int, normalization: str, gripper: Gripper | None = None) -> Group:
    meaning = {"unit": "rad" if gripper is None else "1", "frame": "none", "representation": "absolute", "rotation": "none"}
    return Group(name=name, dimension=dimension, normalization=normalization, gripper=gripper, **meaning)  # pyright: ignore


ROBOTS = {
    "an arm whose gripper never moves": (group("joints", 6, "quantile"), group("gripper", 1, "none", SUCTION)),
    "two arms": (
        *(group("left", 6, "min_max"), group("left_gripper", 1, "none", SUCTION)),
        *(group("right", 6, "quantile"), group("right_gripper", 1, "none", SUCTION)),
    ),
}


def frames(groups: tuple[Group, ...], count: int, seed: int) -> list[dict]:
    """A red square; joints and grippers follow where it is. One gripper alone never moves."""
    noise, width = np.random.default_rng(seed), sum(one.dimension for one in groups)
    grippers = np.array([one.gripper is not None for one in groups for _ in range(one.dimension)])
    mixing, found = np.random.default_rng(5).normal(size=(width, 3)), []
    for row in range(count):
        x, y = noise.uniform(8, 56, 2)
        image = np.full((64, 64, 3), 90, np.uint8)
        image[int(y) - 6 : int(y) + 6, int(x) - 6 : int(x) + 6] = (220, 40, 40)
        seen = np.array([x / 32 - 1, y / 32 - 1, 1.0])
        closed = float(seen[0] > 0) if grippers.sum() > 1 else 0.0
        action = np.where(grippers, closed, 1.2 * np.tanh(mixing @ seen))
        chunk = np.tile(action, (4, 1)) + 0.03 * noise.normal(size=(4, width)) * ~grippers
        found.append(
            {
                "observation.images.front": image,
                "observation.state": noise.normal(size=width).astype(np.float32),
                "instruction": "lift the red block",
                "index": np.array([row, 0]),
                "actions": chunk.astype(np.float32),
                "action_mask": np.ones((4, width), bool),
            }
        )
    return found


def column(values: np.ndarray, groups: tuple[Group, ...]) -> ColumnStatistics:
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    numbers = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0), "q01": low, "q99": high}
    kinds = tuple(one.normalization for one in groups for _ in range(one.dimension))
    return ColumnStatistics(**{name: tuple(map(float, each)) for name, each in numbers.items()}, normalization=kinds)


def contract_of(groups: tuple[Group, ...], data: list[dict], tiny: Contract) -> Contract:
    state = tuple(replace(one, normalization="quantile", gripper=None) for one in groups)
    actions = np.concatenate([frame["actions"] for frame in data]).astype(float)
    states = np.stack([frame["observation.state"] for frame in data]).astype(float)
    statistics = Statistics(
        dataset="r", action=column(actions, groups), state=column(states, state), num_transitions=len(data), num_trajectories=1
    )
    return replace(tiny, embodiment=replace(tiny.embodiment, state=state, action=groups), precision="bf16", statistics=statistics)


def learned(folder: Path, contract: Contract, tokenizer, data: list[dict], steps: int) -> tuple[OpenVLA, LocalPolicy]:
    """A QLoRA policy of a random base in `folder`."""
    torch.manual_seed(0)
    config = tiny_config()
    config.proprio_dimension = contract.embodiment.state_dimension
    base = OpenVLA(config)
    smooth_action_rows(base)
    save_checkpoint(folder, base, tokenizer, contract)
    model, head = load(folder, base="nf4"), ParallelTokenHead(space_of(contract, stop_id=2))
    targets = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
    Lora(rank=8, alpha=8, targets=targets, base="nf4").attach(model)
    policy = LocalPolicy(
        head.over(model),
        build_pipeline(contract, OpenVLAInputs.of(contract, tokenizer)),
        contract,
        pad_id=512,
        rows=16,
        precision=bf16,
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, draw = torch.optim.AdamW(weights, lr=2e-3), np.random.default_rng(0)
    samples = [policy.pipeline(frame) for frame in data]
    for _ in range(steps):
        batch = collate([samples[row] for row in draw.integers(0, len(samples), 16)], pad_id=512)
        with bf16():
            loss = head.over(model).loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return model.eval(), policy


def merges(folder: Path, live: OpenVLA) -> dict[str, OpenVLA]:
    base, original = ({name: weight.float() for name, weight in plain_weights(load(folder, base=kind))} for kind in ("nf4", "fp32"))
    layers = {f"{name}.weight": layer for name, layer in live.named_modules() if isinstance(layer, LoraLayer)}
    changes = {name: update(layer).detach().float() for name, layer in layers.items()}
    left_out = sorted(changes)[len(changes) // 2]

    def made(weights: dict[str, Tensor], scale: float = 1.0, without: str = "") -> OpenVLA:
        model = empty_model(live.config)
        changed = {name: scale * change for name, change in changes.items() if name != without}
        merged = {name: (weight + changed.get(name, 0.0)).bfloat16() for name, weight in weights.items()}
        model.load_state_dict(merged, assign=True)
        return model.eval()

    made_so = {
        "right": made(base),
        "onto the original": made(original),
        "scale 1.1": made(base, 1.1),
        "scale 0.9": made(base, 0.9),
        "without one layer's": made(base, without=left_out),
        "without the adapter": made(base, 0.0),
        "in 4 bits again": made(base),
    }
    quantize(made_so["in 4 bits again"], OPENVLA_NF4)
    for model in made_so.values():
        choose_attention(model, "cpu")
    return made_so


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
def test_only_the_right_merge_passes(robot, tmp_path, tiny_contract, tiny_tokenizer):
    groups = ROBOTS[robot]
    data, held_out = frames(groups, 256, 1), frames(groups, 64, 2)
    contract = contract_of(groups, data, tiny_contract)
    model, live = learned(tmp_path / "base", contract, tiny_tokenizer, data, steps=200)
    said = witness(live, [observation_in(frame, contract.embodiment) for frame in held_out])
    made = merges(tmp_path / "base", model)
    losses = {name: held_out_losses(replace(live, model=live.model.head.over(one)), held_out) for name, one in made.items()}
    before = held_out_losses(live, held_out)
    reports = {
        name: compared(
            said,
            replace(live, model=live.model.head.over(one)),
            contract=contract,
            losses=Losses.of(losses["without the adapter"], before, losses[name]),
        )
        for name, one in made.items()
    }
    passed = {name for name, report in reports.items() if report.passed}
    assert passed == {"right"}, "\n".join(f"{name}: {report}" for name, report in reports.items())
