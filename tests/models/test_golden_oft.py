"""What OpenVLA-OFT's code computed on the tiny fused model, from files laid out as it publishes them (golden README §3, §4.10, §6).

openvla-oft 213c5ff on its transformers fork with bidirectional attention, in float32 on a CPU.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vla_tune.data.collate import Batch, collate
from vla_tune.data.transforms import Scale
from vla_tune.models.heads import ActionSpace, ParallelTokenHead, RegressionHead
from vla_tune.models.openvla import OpenVLA, OpenVLACheckpoint
from vla_tune.models.openvla.action_head import ActionHead
from vla_tune.models.openvla.pictures import NormalizePixels
from vla_tune.models.openvla.processor_file import image_rule
from vla_tune.models.openvla.prompt import parallel_ids
from vla_tune.models.openvla.statistics_file import published_statistics
from vla_tune.models.openvla.vision import ProprioProjector
from vla_tune.tokens import BinTokenizer, uniform_edges

GOLDEN = Path(__file__).parents[1] / "golden"
OFT = np.load(GOLDEN / "oft" / "oft.npz")
META = json.loads((GOLDEN / "oft" / "meta.json").read_text())
SPACE_PIECE, STOP, PAD = 29871, 2, 32000
HIDDEN, ACTIONS, LOSS = 2e-5, 1e-5, 1e-5
SPACE = ActionSpace(tokenizer=BinTokenizer(uniform_edges(256), 32000), horizon=8, action_dimension=7, stop_id=STOP)
type Loaded = Callable[..., OpenVLA]


def parts_of(file: str, prefix: str) -> dict[str, torch.Tensor]:
    tensors = load_file(GOLDEN / "oft" / f"{file}.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def vision_with_film(folder: Path) -> dict[str, torch.Tensor]:
    """All of the vision towers, their blocks wrapped, as the original saves them."""
    merged = load_file(folder / "model.safetensors")
    towers = {name: tensor for name, tensor in merged.items() if name.startswith("vision_backbone.")}
    wrapped = {".".join(wrap(name.split("."))): tensor for name, tensor in towers.items()}
    return wrapped | load_file(GOLDEN / "oft" / "film.safetensors")


def wrap(parts: list[str]) -> list[str]:
    return [*parts[:4], "block", *parts[4:]] if parts[2] == "blocks" else parts


@pytest.fixture(scope="module")
def loaded(fused, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The published folder with some of OFT's files, through our checkpoint."""

    def load(*parts: str) -> OpenVLA:
        folder = tmp_path_factory.mktemp("oft") / "published"
        shutil.copytree(fused.folder, folder)
        written = {
            "action_head": parts_of("heads", "action_head."),
            "proprio_projector": {f"module.{name}": value for name, value in parts_of("heads", "proprio_projector.").items()},
            "vision_backbone": vision_with_film(folder),
        }
        for part in parts:
            torch.save(written[part], folder / f"{part}--150000_checkpoint.pt")
        return OpenVLACheckpoint(str(folder), base="fp32").load(device="cpu")

    return load


def batch_of(fused, images: list[list[int]], prompts: list[list[int]], *, states: np.ndarray, labels: bool = False) -> Batch:
    pixels = NormalizePixels(image_rule(fused.folder), ("first", "second"))
    samples = []
    for row, (numbers, prompt) in enumerate(zip(images, prompts, strict=True)):
        views = [np.asarray(Image.open(GOLDEN / f"train_224_{number}.png").convert("RGB")) for number in numbers]
        sample = replace(pixels, roles=tuple(map(str, range(len(views)))))({"images": dict(zip("01", views, strict=False))})
        sample["state"] = states[row]
        if labels:
            actions = OFT["train_actions"][row]
            sample |= {"actions": actions, "action_mask": np.ones(actions.shape, bool), "index": np.array([row, 0])}
            sample |= {"codes": SPACE.tokenizer.encode(actions), "code_mask": np.ones(56, bool)}
        samples.append(sample | parallel_ids(prompt, sample, 56, STOP))
    return collate(samples, pad_id=PAD)


def asked(fused, *, views: int) -> Batch:
    return batch_of(fused, [[0, 1][:views]], [[*OFT["input_ids"][0].tolist(), SPACE_PIECE]], states=OFT["train_proprio"][:1])


def learning(fused) -> Batch:
    """Two samples; the first is shorter."""
    ids, labels = OFT["train_input_ids"], OFT["train_labels"]
    prompts = [row[: int((label > 0).argmax())].tolist() for row, label in zip(ids, labels, strict=True)]
    batch = batch_of(fused, [[0, 1], [2, 1]], prompts, states=OFT["train_proprio"], labels=True)
    assert np.array_equal(batch.attention_mask, OFT["train_attention_mask"])
    assert batch.attention_mask.sum(dim=1).tolist() == [77, 84]
    kept = ~batch.placeholders
    assert np.array_equal(batch.input_ids[kept], ids[kept.numpy()])
    assert batch.labels is not None
    assert np.array_equal(batch.labels[batch.placeholders], labels[batch.placeholders.numpy()])
    return batch


def robot_units(fused, normalized: np.ndarray) -> np.ndarray:
    return Scale(published_statistics(fused.folder, "tiny_mask").action).robot_units(normalized)


def states_of(model: OpenVLA, batch: Batch, row: int = 0) -> np.ndarray:
    first = int(batch.placeholders[row].nonzero()[0])
    return model(batch)[row, first - 1 : first + 55].numpy()


@pytest.mark.parametrize(
    ("name", "parts", "views"),
    [
        ("l1_1img", ("action_head",), 1),
        ("l1_2img_proprio", ("action_head", "proprio_projector"), 2),
        ("l1_1img_film", ("action_head", "vision_backbone"), 1),
    ],
)
@torch.no_grad()
def test_regressed_actions(fused, loaded: Loaded, name: str, parts: tuple[str, ...], views: int):
    model, batch = loaded(*parts), asked(fused, views=views)
    np.testing.assert_allclose(states_of(model, batch), OFT[f"{name}_hidden"][0], rtol=0, atol=HIDDEN)
    actions = robot_units(fused, RegressionHead(SPACE).over(model).act(batch)[0])
    np.testing.assert_allclose(actions, OFT[f"{name}_actions"], rtol=0, atol=ACTIONS)
    assert np.abs(OFT[f"{name}_actions"] - OFT["l1_1img_CAUSAL_for_contrast_actions"]).max() > 1000 * ACTIONS


@torch.no_grad()
def test_coded_actions(fused, loaded: Loaded):
    """The file says nothing of OFT: the merged weights are all there is."""
    model, batch = loaded(), asked(fused, views=1)
    np.testing.assert_allclose(states_of(model, batch), OFT["discrete_1img_hidden"][0], rtol=0, atol=HIDDEN)
    actions = robot_units(fused, ParallelTokenHead(SPACE).over(model).act(batch)[0])
    np.testing.assert_allclose(actions, OFT["discrete_1img_actions"], rtol=0, atol=1e-8)  # the original adds 1e-8 to the range


@torch.no_grad()
def test_a_training_batch_with_padding(fused, loaded: Loaded):
    """Two views and the state: states, predictions, and both losses."""
    model, batch = loaded("action_head", "proprio_projector"), learning(fused)
    for row in range(2):
        np.testing.assert_allclose(states_of(model, batch, row), OFT["train_actions_hidden"][row], rtol=0, atol=HIDDEN)
    head = RegressionHead(SPACE)
    np.testing.assert_allclose(head.over(model).act(batch), OFT["train_pred"], rtol=0, atol=ACTIONS)
    loss = head.over(model).loss(batch)
    assert loss.loss.item() == pytest.approx(META["train"]["l1"], abs=LOSS)
    assert loss.per_label.unflatten(0, (2, 8, 7))[:, 0].mean().item() == pytest.approx(META["train"]["curr_l1"], abs=LOSS)
    assert loss.per_label.unflatten(0, (2, 8, 7))[:, 1:].mean().item() == pytest.approx(META["train"]["next_l1"], abs=LOSS)
    codes = ParallelTokenHead(SPACE).over(model).loss(batch).per_label
    assert len(codes) == 112
    last = batch.placeholders.long().cumsum(dim=1).argmax(dim=1)  # it predicts the end, which we do not learn
    ends = -model.vocabulary_logits(model(batch)[torch.arange(2), last]).log_softmax(dim=-1)[:, STOP]
    assert torch.cat([codes, ends]).mean().item() == pytest.approx(META["train"]["ce_loss"], abs=LOSS)


@torch.no_grad()
def test_head_and_projector_alone():
    head, projector = ActionHead(32, 7), ProprioProjector(8, 32)
    head.load_state_dict(parts_of("heads", "action_head."))
    projector.load_state_dict(parts_of("heads", "proprio_projector."))
    np.testing.assert_allclose(head(torch.from_numpy(OFT["head_in"])), OFT["head_out"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(projector(torch.from_numpy(OFT["proprio_in"])), OFT["proprio_out"], rtol=0, atol=1e-6)


@torch.no_grad()
def test_film_listens_to_words_and_not_to_padding_or_actions(fused, loaded: Loaded):
    model, batch = loaded("action_head", "vision_backbone"), learning(fused)
    alone = batch_of(fused, [[0, 1]], [batch.input_ids[0, : int(batch.prompt_length[0])].tolist()], states=OFT["train_proprio"])
    heard = model.language(batch)
    assert heard is not None
    torch.testing.assert_close(heard[:1], model.language(alone), atol=1e-6, rtol=1e-6)
    other = replace(batch, input_ids=batch.input_ids.masked_fill(batch.placeholders, 5))
    assert torch.equal(model.language(other), heard)
    word = replace(batch, input_ids=batch.input_ids.clone())
    word.input_ids[:, 9] = 5
    assert (
        model.context(word.pixel_values, word.state, model.language(word))[:, :256]
        - model.context(batch.pixel_values, batch.state, heard)[:, :256]
    ).abs().max() > 1e-3
