"""What the models' own processors are given, and what they are refused (`vla_tune.models.hf.inputs`)."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from transformers import AutoProcessor

from vla_tune.check.paths import differing_inputs
from vla_tune.data import build_pipeline, training_pipeline
from vla_tune.data.augmentation import AugmentImages, CropImages
from vla_tune.data.collate import collate
from vla_tune.data.recorded import observation_in
from vla_tune.data.transforms import Compose
from vla_tune.models.heads import ParallelTokenHead, RegressionHead
from vla_tune.models.hf import HFCheckpoint
from vla_tune.models.hf.inputs import HFInputs, processor_hash, state_text
from vla_tune.models.hf.record import record_of
from vla_tune.policy import LocalPolicy
from vla_tune.schema import Augmentation, Contract, Observation, contract_from_record
from vla_tune.tokens import IGNORED, pad_id, stop_id, uniform_edges

IMAGE_TOKENS = {"qwen2_5_vl": 16, "qwen3_vl": 16, "paligemma": 16, "smolvlm": 4, "internvl": 4}
"""Per image, from the sizes of images and patches and how many features are merged."""


@pytest.fixture
def contract(checkpoint: HFCheckpoint, contract_for: Callable[..., Contract]) -> Contract:
    return contract_for(checkpoint)


def test_a_sample_holds_all_images_prompt_and_codes(family, checkpoint, contract, samples):
    processor = checkpoint.processor
    raw = samples(contract)[0]
    sample = build_pipeline(contract, HFInputs.of(contract, processor))(raw)
    ids, first = sample["input_ids"], int(sample["prompt_length"])
    assert (ids == checkpoint._config.image_token_id).sum() == 2 * IMAGE_TOKENS[family.name]
    text = processor.tokenizer.decode(ids[:first])
    assert "What action should the robot take to lift the red block?" in text
    if family.layout == "chat":
        assert text.endswith("<|im_start|>assistant\n")
    assert ids[first:].tolist() == [*sample["codes"], stop_id(processor)]
    assert sample["labels"][:first].tolist() == [IGNORED] * first
    assert sample["labels"][first:].tolist() == ids[first:].tolist()
    assert "images" not in sample
    for values in sample["token_inputs"].values():
        assert values.shape == ids.shape
    expected = {"token_type_ids": 1, "mm_token_type_ids": 0}
    assert {name: set(values[first:]) for name, values in sample["token_inputs"].items()} == {
        name: {expected[name]} for name in sample["token_inputs"]
    }


def test_an_observation_is_read_as_training_was(checkpoint, contract, samples):
    pipeline = build_pipeline(contract, checkpoint.interface(contract))
    raw = samples(contract)[1]
    seen = pipeline({name: value for name, value in raw.items() if name not in ("actions", "action_mask", "index")})
    learned = pipeline(raw)
    first = int(learned["prompt_length"])
    assert seen["input_ids"].tolist() == learned["input_ids"][:first].tolist()
    for name, value in seen["vision_inputs"].items():
        assert np.array_equal(value, learned["vision_inputs"][name])
    actions = pipeline.robot_actions(learned["actions"], learned)
    np.testing.assert_allclose(actions, raw["actions"], atol=1e-6)


def test_training_may_change_pictures_and_a_robot_sees_their_middle(checkpoint, contract, samples):
    rule = Augmentation(crop_area=0.8, brightness=0.2, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0, paraphrases={})
    augmented, frame = replace(contract, augmentation=rule), samples(contract)[0]
    cameras = contract.embodiment.cameras

    def shown(contract: Contract, changed: dict) -> dict[str, np.ndarray]:
        return build_pipeline(contract, checkpoint.interface(contract))(frame | changed)["vision_inputs"]

    middle = {camera.key: CropImages(0.8)({"images": {"": frame[camera.key]}})["images"][""] for camera in cameras}
    for name, value in shown(augmented, {}).items():
        assert np.array_equal(value, shown(contract, middle)[name])
    seen = training_pipeline(augmented, checkpoint.interface(augmented))(frame | {"draw": (0, 1)})
    drawn = AugmentImages(rule)({"images": {camera.role: frame[camera.key] for camera in cameras}, "draw": (0, 1)})["images"]
    for name, value in seen["vision_inputs"].items():
        assert np.array_equal(value, shown(contract, {camera.key: drawn[camera.role] for camera in cameras})[name])
    assert not all(np.array_equal(value, shown(contract, {})[name]) for name, value in seen["vision_inputs"].items())


def test_training_and_a_robot_give_the_model_the_same(checkpoint, contract, samples):
    pipeline, frames, body = build_pipeline(contract, checkpoint.interface(contract)), samples(contract), contract.embodiment
    seen = [observation_in(frame, body) for frame in frames]
    assert differing_inputs(pipeline, pipeline, frames, seen, body) == ()
    others = [replace(one, instruction=f"{one.instruction} now") for one in seen]
    assert {"input_ids", "prompt_length"} <= set(differing_inputs(pipeline, pipeline, frames, others, body))


@dataclass(frozen=True)
class Marked:
    """Says something else about the first id, or the last one of the prompt."""

    place: int

    def __call__(self, sample):
        told = {name: values.copy() for name, values in sample["token_inputs"].items()}
        for values in told.values():
            values[self.place] += 1
        return sample | {"token_inputs": told}


@pytest.mark.parametrize("place", [0, -1])
def test_what_is_said_about_each_id_is_compared(checkpoint, contract, samples, place):
    pipeline, frames, body = build_pipeline(contract, checkpoint.interface(contract)), samples(contract)[:1], contract.embodiment
    found = differing_inputs(
        pipeline, Compose((*pipeline.steps, Marked(place))), frames, [observation_in(frames[0], body) for _ in frames], body
    )
    assert found == (("token_inputs",) if pipeline(frames[0])["token_inputs"] else ())


def test_the_order_of_the_cameras_matters(checkpoint, contract, samples):
    pipeline, raw = build_pipeline(contract, checkpoint.interface(contract)), samples(contract)[0]
    front, wrist = (camera.key for camera in contract.embodiment.cameras)
    swapped = pipeline(raw | {front: raw[wrist], wrist: raw[front]})
    pixels = [sample["vision_inputs"]["pixel_values"].reshape(2, -1) for sample in (pipeline(raw), swapped)]
    assert np.array_equal(pixels[0], pixels[1][::-1])
    assert not np.array_equal(pixels[0], pixels[1])


def test_batches_move_with_everything_in_them(checkpoint, contract, samples):
    pipeline = build_pipeline(contract, checkpoint.interface(contract))
    batch = collate([pipeline(sample) for sample in samples(contract)], pad_id=pad_id(checkpoint.processor))
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
    assert moved.tensors().keys() == batch.tensors().keys()
    assert {f"vision_inputs.{name}" for name in batch.vision_inputs} <= batch.tensors().keys()
    assert moved.vision_inputs.keys() == batch.vision_inputs.keys()
    assert moved.padded is batch.padded


def test_a_pipeline_goes_to_a_worker(checkpoint, contract, samples):
    pipeline, raw = build_pipeline(contract, checkpoint.interface(contract)), samples(contract)[0]
    there = pickle.loads(pickle.dumps(pipeline))(raw)
    assert there["input_ids"].tolist() == pipeline(raw)["input_ids"].tolist()


def test_a_policy_acts_alike_in_company(checkpoint, contract):
    interface = checkpoint.interface(contract)
    model, pipeline = checkpoint.load(device="cpu"), build_pipeline(contract, interface)
    policy = LocalPolicy(interface.over(model), pipeline, contract, pad_id=interface.pad_id, rows=3)
    noise = np.random.default_rng(0)
    images = [{role: noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for role in ("front", "wrist")} for _ in range(4)]
    sentences = ["lift the red block", "push the green block to the left", "touch it", "lift the red block"]
    observations = [
        Observation(images=each, state=np.zeros(4, np.float32), instruction=text)
        for each, text in zip(images, sentences, strict=True)
    ]
    together = policy.act(observations)
    assert together.shape == (4, contract.horizon, 4)
    for row, observation in enumerate(observations):
        assert np.array_equal(policy.act([observation])[0], together[row])


def test_a_saved_processor_is_the_same_one(checkpoint, contract, tmp_path):
    checkpoint.processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert processor_hash(again) == processor_hash(checkpoint.processor)
    read = contract_from_record(contract.record, source="here")
    assert read == contract
    assert record_of(read).image.processor_hash == processor_hash(again)
    again.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert processor_hash(again) != processor_hash(checkpoint.processor)
    with pytest.raises(ValueError, match="configured in another way than in training"):
        build_pipeline(contract, HFInputs.of(contract, again))


def test_a_text_tokenizer_is_no_processor(checkpoint, contract, tiny_contract):
    with pytest.raises(ValueError, match="configured in another way"):
        build_pipeline(contract, HFInputs.of(contract, checkpoint.processor.tokenizer))
    with pytest.raises(ValueError, match="a model without a processor of its own"):
        build_pipeline(tiny_contract, checkpoint.interface(tiny_contract))


@pytest.mark.parametrize("head", [ParallelTokenHead, RegressionHead, None])
def test_what_a_causal_model_cannot_do_is_refused(checkpoint, contract, wanted, head):
    with pytest.raises(ValueError, match="head=autoregressive"):
        checkpoint.part(wanted(contract.embodiment, uniform_edges(8), head))


def test_more_codes_than_rows_are_refused(families, checkpoint_of, contract_for):
    checkpoint = checkpoint_of(families["smolvlm"])
    contract = contract_for(checkpoint)
    more = contract.model["action_tokens"] | {"edges": [np.linspace(-1, 1, 40).tolist()]}
    contract = replace(contract, resolution=2 / 39, model=contract.model | {"action_tokens": more})
    with pytest.raises(ValueError, match=r"40 codes are the ids \d+ to \d+.*model.rows.count=40"):
        build_pipeline(contract, checkpoint.interface(contract))


@pytest.mark.parametrize(
    ("name", "instruction", "message"),
    [
        ("qwen2_5_vl", "  ", "is empty"),
        ("qwen2_5_vl", "lift <|im_end|> it", r"\['<\|im_end\|>'\]"),
        ("smolvlm", "lift the <image>", r"\['<image>'\]"),
        ("internvl", "lift the <img_context>", None),
        ("paligemma", "lift <loc0992>", r"\['<loc0992>'\]"),
    ],
)
def test_an_instruction_is_words(name: str, instruction: str, message: str | None, families, checkpoint_of, contract_for, samples):
    from vla_tune.models.hf import ReservedRows

    first = checkpoint_of(families["paligemma"]).processor.tokenizer.convert_tokens_to_ids("<loc0992>")
    rows = {"rows": ReservedRows(size=first + 32, count=32, tokens=["<loc*>"])} if name == "paligemma" else {}
    checkpoint = checkpoint_of(families[name], **rows)
    contract = contract_for(checkpoint)
    pipeline, raw = build_pipeline(contract, checkpoint.interface(contract)), samples(contract, [instruction])[0]
    if message is None:
        assert pipeline(raw)
        return
    with pytest.raises(ValueError, match=message):
        pipeline(raw)


def test_the_state_is_written_where_the_template_asks_for_it(families, checkpoint_of, contract_for, samples):
    checkpoint = checkpoint_of(families["smolvlm"], prompt="Task: {instruction}, state: {state};")
    contract = contract_for(checkpoint)
    sample = build_pipeline(contract, checkpoint.interface(contract))(samples(contract)[0])
    text = checkpoint.processor.tokenizer.decode(sample["input_ids"][: int(sample["prompt_length"])])
    assert f"state: {state_text(sample['state'])};" in text


def test_states_are_256_equal_bins():
    assert state_text(np.array([-1.0, -0.995, 0.0, 0.999, 1.0])) == "0 0 128 255 255"
    assert state_text(np.linspace(-1, 1, 257)[:-1] + 1e-6) == " ".join(map(str, range(256)))
