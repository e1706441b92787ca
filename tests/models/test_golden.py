"""What the original code computed on its tiny models, with the tolerances of golden README §6."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vla_tune.data.collate import Batch, collate
from vla_tune.data.transforms import Scale
from vla_tune.models.heads import ActionSpace, AutoregressiveTokenHead
from vla_tune.models.heads.autoregressive import prompt_of
from vla_tune.models.heads.decoding import Constrained, FullVocabulary, Watched
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.pictures import NormalizePixels, ResizeImages
from vla_tune.models.openvla.processor_file import image_rule
from vla_tune.models.openvla.prompt import CausalPrompt
from vla_tune.models.openvla.published import published_inputs
from vla_tune.models.openvla.statistics_file import published_statistics
from vla_tune.tokens import BinTokenizer, uniform_edges
from vla_tune.tokens.prompt import causal_ids

GOLDEN = Path(__file__).parents[1] / "golden"
PROJECTOR, LOGITS, LOSS = 1e-5, 2e-4, 1e-5
PATCHES = 256


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / name).convert("RGB"))


def pixels_of(original, image: np.ndarray) -> np.ndarray:
    rule = image_rule(original.folder)
    sample = ResizeImages(rule)({"images": {"front": image}})
    return NormalizePixels(rule, ("front",))(sample)["pixel_values"]


def space_of(original) -> ActionSpace:
    tokenizer = BinTokenizer(uniform_edges(256), original.meta["tokens"]["vocab_size"])
    return ActionSpace(tokenizer=tokenizer, horizon=1, action_dimension=7, stop_id=original.meta["tokens"]["eos"])


def sample_of(prompt: list[int], pixels: np.ndarray, actions: np.ndarray | None = None, *, space: ActionSpace) -> dict[str, Any]:
    """What the pipeline gives, with a prompt that is known as ids."""
    sample: dict[str, Any] = {"pixel_values": pixels, "state": np.zeros(1, np.float32)}
    if actions is not None:
        sample |= {"actions": actions[None], "action_mask": np.ones((1, 7), dtype=bool), "index": np.zeros(2, np.int64)}
        sample |= {"codes": space.tokenizer.encode(actions[None]), "code_mask": np.ones(7, dtype=bool)}
    return sample | causal_ids(prompt, sample, space.stop_id)


@dataclass(frozen=True)
class Run:
    """A training batch through our model, beside what the original computed from it."""

    model: OpenVLA
    batch: Batch
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def training_batch(original) -> Batch:
    inputs, space = original.arrays("train_inputs"), space_of(original)
    samples = []
    for row in range(3):
        labelled = int((inputs["labels"][row] != -100).argmax())
        prompt = inputs["input_ids"][row, :labelled].tolist()
        pixels = pixels_of(original, picture(f"train_224_{row}.png"))
        assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == inputs["pixel_values_sha256"][row]
        samples.append(sample_of(prompt, pixels, inputs["actions"][row], space=space))
    return collate(samples, pad_id=original.meta["tokens"]["pad"])


@pytest.fixture(scope="module")
def run(original) -> Run:
    return Run(original.model(), training_batch(original), original.arrays("train_inputs"), original.arrays("train_outputs"))


def test_the_collator(run: Run, original):
    """Ids padded on the right with V, labels with -100; padding is masked."""
    assert np.array_equal(run.batch.input_ids, run.inputs["input_ids"])
    assert run.batch.labels is not None
    assert np.array_equal(run.batch.labels, run.inputs["labels"])
    assert np.array_equal(run.batch.attention_mask, run.inputs["attention_mask"])
    assert (run.batch.input_ids[~run.batch.attention_mask] == original.meta["tokens"]["pad"]).all()
    assert (run.batch.labels != -100).sum() == original.meta["loss_token_count"] == 24


def test_prompts_and_labels_from_words(siglip):
    """Of the model whose tokenizer is here; the ids of the other's are checked by `test_the_collator`."""
    checkpoint, inputs = OpenVLACheckpoint(str(siglip.folder)), siglip.arrays("train_inputs")
    step = CausalPrompt(checkpoint.processor, published_inputs(siglip.folder).prompt)
    tokenizer = space_of(siglip).tokenizer
    for row, instruction in enumerate(siglip.meta["instructions"]):
        length = int(inputs["attention_mask"][row].sum())
        codes = {"codes": tokenizer.encode(inputs["actions"][row][None]), "code_mask": np.ones(7, dtype=bool)}
        sample = step({"instruction": instruction} | codes)
        assert np.array_equal(sample["input_ids"], inputs["input_ids"][row, :length])
        assert np.array_equal(sample["labels"], inputs["labels"][row, :length])
    for case in siglip.meta["predict"]:
        assert step({"instruction": case["instruction"]})["input_ids"].tolist() == [*case["input_ids"], case["empty_token_id"]]


@torch.no_grad()
def test_features(run: Run):
    model, golden = run.model, run.outputs
    patches = model.vision_backbone(run.batch.pixel_values[:1, 0])
    np.testing.assert_allclose(patches, golden["patch_features_sample0"], rtol=0, atol=PROJECTOR)
    projected = model.context(run.batch.pixel_values, run.batch.state)
    np.testing.assert_allclose(projected, golden["projector_features"], rtol=0, atol=PROJECTOR)


@torch.no_grad()
def test_hidden_states_of_every_layer(run: Run):
    model, batch, golden = run.model, run.batch, run.outputs
    inputs, seen = model.sequence(batch, model.context(batch.pixel_values, batch.state))
    assert np.array_equal(seen, golden["valid"])
    output = model.language_model.model(inputs_embeds=inputs, attention_mask=seen, output_hidden_states=True, use_cache=False)
    of_one = torch.stack(output.hidden_states)[:, 1]
    valid = golden["valid"]
    assert of_one.shape == golden["hidden_states_sample1"].shape
    np.testing.assert_allclose(of_one[:, valid[1]], golden["hidden_states_sample1"][:, valid[1]], rtol=0, atol=2e-5)
    np.testing.assert_allclose(output.last_hidden_state[valid], golden["last_hidden"][valid], rtol=0, atol=2e-5)


@torch.no_grad()
def test_logits(run: Run):
    """A subset of them exactly placed, and the rest through their log-sum-exp and argmax; padding says nothing."""
    model, batch, golden = run.model, run.batch, run.outputs
    hidden = model.hidden_states(batch, model.context(batch.pixel_values, batch.state))
    logits = model.vocabulary_logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2]).numpy()
    valid, positions = golden["valid"], golden["logits_positions"]
    subset = logits[:, positions][:, :, golden["vocab_subset"]]
    kept = valid[:, positions]
    np.testing.assert_allclose(subset[kept], golden["logits_subset"][kept], rtol=0, atol=LOGITS)
    sums = torch.from_numpy(logits).logsumexp(dim=-1).numpy()
    np.testing.assert_allclose(sums[valid], golden["logsumexp"][valid], rtol=0, atol=LOGITS)
    assert np.array_equal(logits.argmax(-1)[valid], golden["argmax"][valid])


@torch.no_grad()
def test_text_alone(run: Run):
    """Through the language model: our batches always have pictures."""
    output = run.model.language_model(
        input_ids=run.batch.input_ids, attention_mask=run.batch.attention_mask, labels=run.batch.labels
    )
    assert output.loss.item() == pytest.approx(float(run.outputs["text_only_loss"]), abs=LOSS)
    subset = output.logits[..., run.outputs["text_only_vocab_subset"]]
    kept = run.batch.attention_mask
    np.testing.assert_allclose(subset[kept], run.outputs["text_only_logits_subset"][kept.numpy()], rtol=0, atol=LOGITS)


@torch.no_grad()
def test_loss_and_action_metrics(run: Run, original):
    head, space = AutoregressiveTokenHead(space_of(original)), space_of(original)
    result = head.over(run.model).loss(run.batch)
    assert result.loss.item() == pytest.approx(original.meta["loss"], abs=LOSS)
    of_labels = run.outputs["token_ce"][~np.isnan(run.outputs["token_ce"])]
    np.testing.assert_allclose(result.per_label, of_labels, rtol=0, atol=LOGITS)
    codes = result.correct.unflatten(0, (3, 8))[:, :7]
    assert codes.float().mean().item() == pytest.approx(original.meta["action_accuracy"])
    assert run.batch.labels is not None
    positions = (run.batch.labels != -100) & (run.batch.labels != space.stop_id)
    chosen = run.model.vocabulary_logits(run.model(run.batch)[:, :-1][positions[:, 1:]]).argmax(dim=-1)
    decode = partial(space.tokenizer.decode, action_dimension=7)
    error = np.abs(decode(chosen.numpy()) - decode(run.batch.labels[positions].numpy())).mean()
    assert error == pytest.approx(original.meta["action_l1"], abs=1e-12)


def test_gradients(original):
    """The norm of every parameter's, and some in full."""
    model, batch = original.model(), training_batch(original)
    AutoregressiveTokenHead(space_of(original)).over(model).loss(batch).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    norms = original.meta["grad_norms"]
    assert gradients.keys() == norms.keys()
    assert {name for name, gradient in gradients.items() if gradient is None} == {
        name for name, norm in norms.items() if norm is None
    }
    for name, gradient in gradients.items():
        if gradient is not None:
            assert gradient.norm().item() == pytest.approx(norms[name], rel=1e-4, abs=1e-6), name
    for name, golden in original.arrays("grads").items():
        gradient = gradients[name.removeprefix("grad|")]
        np.testing.assert_allclose(gradient, golden, rtol=0, atol=1e-4 * np.abs(golden).max(), err_msg=name)


def test_six_optimizer_steps(original):
    """Full fine-tuning with AdamW at 5e-4."""
    model, batch = original.model(), training_batch(original)
    head, optimizer = AutoregressiveTokenHead(space_of(original)), torch.optim.AdamW(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = head.over(model).loss(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(original.meta["full_ft_adamw_lr5e-4_losses_step0to5"], abs=2e-4)
    for name, weight in model.named_parameters():
        # The biases of the keys have no gradient but rounding errors, which Adam scales up to whole steps.
        tolerance = 1e-3 if name.endswith("qkv.bias") else 1e-5
        golden = original.meta["param_norms_after_6_adamw_steps"][name]
        assert weight.double().norm().item() == pytest.approx(golden, rel=tolerance), name


def observed(original, number: int) -> Batch:
    """A prompt, as the original's inference sees it."""
    case = original.meta["predict"][number]
    pixels = pixels_of(original, picture(f"image/{Path(case['image_png']).name}"))
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == case["pixel_values_sha256"]
    prompt = [*case["input_ids"], case["empty_token_id"]]
    return collate([sample_of(prompt, pixels, space=space_of(original))], pad_id=original.meta["tokens"]["pad"])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("decoder", [FullVocabulary(), Constrained(), Watched()], ids=lambda decoder: type(decoder).__name__)
def test_generated_ids(run: Run, original, number: int, decoder):
    prompt = prompt_of(observed(original, number))
    with torch.no_grad():
        decoded = decoder(run.model, prompt, space_of(original))
    assert decoded.ids.tolist() == [original.meta["predict"][number]["generated_ids"]]


@pytest.mark.parametrize("number", range(3))
@torch.no_grad()
def test_logits_of_every_decoding_step(run: Run, original, number: int):
    golden, state = original.arrays(f"predict_{number}"), run.model.prefill(observed(original, number))
    for scores, code in zip(golden["scores_subset"], original.meta["predict"][number]["generated_ids"], strict=True):
        logits = run.model.vocabulary_logits(state.hidden)[0, golden["vocab_subset"]]
        np.testing.assert_allclose(logits, scores, rtol=0, atol=LOGITS)
        state = run.model.advance(torch.tensor([code]), state)


@pytest.mark.parametrize("key", ["tiny_mask", "tiny_nomask"])
@pytest.mark.parametrize("number", range(3))
def test_actions(run: Run, original, number: int, key: str):
    case, head = original.meta["predict"][number], AutoregressiveTokenHead(space_of(original), decoder=FullVocabulary())
    normalized = head.over(run.model).act(observed(original, number))[0]
    np.testing.assert_allclose(normalized[0], case["normalized"], rtol=0, atol=1e-12)
    scale = Scale(published_statistics(original.folder, key).action)
    np.testing.assert_allclose(scale.robot_units(normalized)[0], case["actions"][key], rtol=0, atol=1e-12)
    assert np.array_equal(scale.inverse(normalized)[0], np.array(case["actions"][key], np.float32))


@dataclass(frozen=True)
class Ending:
    """A model that wants to end after some codes."""

    model: OpenVLA
    after: int
    calls: list[int]

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self.model(batch)

    def vocabulary_logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        self.calls.append(1)
        logits = self.model.vocabulary_logits(hidden)
        if len(self.calls) == self.after + 1:
            logits[:, 2] = 1e4
        return logits if rows is None else logits[:, rows]

    def prefill(self, batch: Batch):
        return self.model.prefill(batch)

    def advance(self, ids: torch.Tensor, decoding):
        return self.model.advance(ids, decoding)


def test_an_early_end_is_an_error_and_never_the_prompts_ids(run: Run, original):
    """The original takes the last seven ids, of which four are the prompt's here, for actions."""
    case = original.meta["forced_eos_at_step3"]
    prompts_last = [*original.meta["predict"][0]["input_ids"][-2:], original.meta["tokens"]["empty"]]
    assert case["tail7_ids_used_by_predict_action"][:3] == prompts_last
    with pytest.raises(ValueError, match="ended the sequence after 3 of 7 codes"), torch.no_grad():
        FullVocabulary()(Ending(run.model, 3, []), observed(original, 0), space_of(original))
    with torch.no_grad():
        codes = Constrained()(Ending(run.model, 3, []), observed(original, 0), space_of(original)).ids.tolist()
    assert codes == [original.meta["predict"][0]["generated_ids"]]
