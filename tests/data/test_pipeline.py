"""One pipeline for training and for the robot."""

import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.data import ModelPart, build_pipeline, collate, make_contract
from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.statistics import dataset_statistics
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.schema import Contract, Embodiment
from vla_tune.tokens import IGNORED


@pytest.fixture(scope="session")
def demonstrations(image_folder: Path, body: Embodiment) -> Demonstrations:
    return Demonstrations(image_folder, embodiment=body, chunks=ChunksByTimestamp(4))


def raw(sample: dict, body: Embodiment) -> dict:
    """What the robot gives: no actions, no mask, no index."""
    return {key: sample[key] for key in (body.cameras[0].key, body.state_key, "instruction")}


def test_the_robot_gets_what_was_trained(demonstrations: Demonstrations, tiny_contract: Contract, tiny_tokenizer):
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    for index in range(len(demonstrations)):
        trained = pipeline(demonstrations[index])
        observed = pipeline(raw(demonstrations[index], tiny_contract.embodiment))
        for key in ("pixel_values", "state", "input_ids", "placeholders"):
            assert trained[key].tobytes() == observed[key].tobytes(), key
        assert (observed["labels"] == IGNORED).all()
        assert (trained["labels"] != IGNORED).sum() == demonstrations[index]["action_mask"].sum()


def test_a_batch_has_the_shapes_of_the_contract(demonstrations: Demonstrations, tiny_contract: Contract, tiny_tokenizer):
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    batch = collate([pipeline(demonstrations[index]) for index in range(3)], pad_id=512)
    assert batch.pixel_values.shape == (3, 1, 3, 64, 64)
    assert batch.actions is not None
    assert batch.actions.shape == (3, 4, 4)
    assert batch.index is not None
    assert batch.index.tolist() == [[0, 0], [0, 1], [0, 2]]


def test_the_way_back_leads_to_robot_units(demonstrations: Demonstrations, tiny_contract: Contract, tiny_tokenizer):
    contract = replace(tiny_contract, statistics=dataset_statistics(demonstrations))
    column = contract.statistics.action
    pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))
    for index in range(len(demonstrations)):
        sample = demonstrations[index]
        actions = pipeline.robot_actions(pipeline(sample)["actions"], raw(sample, contract.embodiment))
        wanted = np.where(column.mask, np.clip(sample["actions"], column.q01, column.q99), sample["actions"])
        assert np.allclose(actions, wanted, atol=1e-6)


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_relative_actions_come_back_with_the_state(tiny_contract: Contract, tiny_tokenizer, seed: int):
    body = tiny_contract.embodiment
    arm = replace(body.action[0], name="tool_position", representation="relative_to_first")
    body = replace(body, action=(arm, body.action[1]))
    contract = replace(tiny_contract, embodiment=body)
    pipeline = build_pipeline(contract, OpenVLAInputs.of(contract, tiny_tokenizer))
    rng = np.random.default_rng(seed)
    state = rng.uniform(-0.1, 0.1, 4).astype(np.float32)
    actions = np.concatenate([state[:3] + rng.uniform(-0.029, 0.029, (4, 3)), rng.uniform(0, 1, (4, 1))], axis=1).astype(np.float32)
    observation = {body.cameras[0].key: np.zeros((64, 64, 3), np.uint8), body.state_key: state, "instruction": "lift the red block"}
    processed = pipeline(observation | {"actions": actions, "action_mask": np.ones((4, 4), bool)})
    assert np.allclose(processed["actions"][:, :3], (actions[:, :3] - state[:3]) / 0.03, atol=1e-4)
    predicted = processed["actions"].astype(np.float64)
    assert np.allclose(pipeline.robot_actions(predicted, observation), actions, atol=1e-6)
    assert np.allclose(pipeline.inverse(pipeline(observation) | {"actions": predicted})["actions"], actions, atol=1e-6)


def test_the_pipeline_travels_to_a_worker(demonstrations: Demonstrations, tiny_contract: Contract, tiny_tokenizer):
    pipeline = build_pipeline(tiny_contract, OpenVLAInputs.of(tiny_contract, tiny_tokenizer))
    before = pipeline(demonstrations[0])
    after = pickle.loads(pickle.dumps(pipeline))(demonstrations[0])
    assert all(np.array_equal(before[key], after[key]) for key in ("pixel_values", "labels", "actions"))


def test_make_contract(tiny_contract: Contract):
    derived = {"version", "embodiment", "execute_steps", "base", "jpeg_quality", "model", "resolution"}
    arguments = {field.name: getattr(tiny_contract, field.name) for field in fields(Contract) if field.name not in derived}
    arguments["model"] = ModelPart(tiny_contract.model, tiny_contract.resolution)
    assert make_contract(tiny_contract.embodiment, execute_steps=4, **arguments) == tiny_contract
    with pytest.raises(ValueError, match="execute_steps=5 must lie between 1 and the horizon 4"):
        make_contract(tiny_contract.embodiment, execute_steps=5, **arguments)
