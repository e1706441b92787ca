from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vla_tune.data.collate import Batch
from vla_tune.models.base import VLA
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.model import bidirectional_mask, prefix_mask
from vla_tune.models.openvla.tiny import tiny_config
from vla_tune.models.openvla.vision import FusedProjector, ProprioProjector, SingleProjector

SIGLIP = ("vit_so400m_patch14_siglip_224", {"embed_dim": 72, "depth": 3, "num_heads": 4})
PADDING = 512


def test_published_names(tiny_model: OpenVLA, siglip, fused):
    alone, both = siglip.model(), fused.model()
    assert isinstance(tiny_model, VLA)
    names = set(dict(tiny_model.named_parameters()))
    layer = "language_model.model.layers.0"
    attention = {f"{layer}.self_attn.{name}_proj.weight" for name in "qkvo"}
    mlp = {f"{layer}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    ends = {"language_model.model.embed_tokens.weight", "language_model.model.norm.weight", "language_model.lm_head.weight"}
    vision = {f"vision_backbone.featurizer.{name}.weight" for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1")}
    assert attention | mlp | ends | vision <= names
    rooms = {name.split(".")[0] for name in names}
    assert rooms == {"vision_backbone", "projector", "language_model", "proprio_projector"}
    assert {name.split(".")[1] for name in names if name.startswith("proprio_projector")} == {"fc1", "fc2"}
    assert isinstance(alone.projector, SingleProjector)
    assert {name for name, _ in alone.projector.named_children()} == {"fc1", "fc2"}
    assert isinstance(both.projector, FusedProjector)
    assert {name for name, _ in both.projector.named_children()} == {"fc1", "fc2", "fc3"}
    assert [tuple(weight.shape) for name, weight in both.projector.named_parameters() if name.endswith("weight")] == [
        (544, 136),
        (32, 544),
        (32, 32),
    ]
    assert isinstance(tiny_model.proprio_projector, ProprioProjector)
    assert any(name.startswith("vision_backbone.fused_featurizer.blocks.0.") for name, _ in both.named_parameters())
    assert not hasattr(alone, "proprio_projector")
    assert tiny_model.get_output_embeddings() is tiny_model.language_model.lm_head


def test_no_tower_or_three_are_refused():
    for count in (0, 3):
        config = OpenVLAConfig(timm_model_ids=["vit_tiny_patch16_224"] * count, image_sizes=[64] * count)
        with pytest.raises(ValueError, match="one vision tower or two"):
            OpenVLA(config)


@torch.no_grad()
def test_features_are_those_of_the_second_to_last_block(tiny_model: OpenVLA):
    tiny_model.eval()
    tower, pixels, caught = tiny_model.vision_backbone.towers[0], torch.randn(2, 3, 64, 64), []
    _, second, last = tower.blocks.children()
    handle = second.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    tower.forward_features(pixels)
    handle.remove()
    features = tiny_model.vision_backbone(pixels)
    assert features.shape == (2, 16, 128)
    torch.testing.assert_close(features, caught[0])
    nn.init.normal_(next(last.parameters()))
    assert torch.equal(tiny_model.vision_backbone(pixels), features), "the last block plays no part"


@torch.no_grad()
def test_the_order_is_start_patches_state_text(tiny_model: OpenVLA, tiny_batch: Batch):
    given = {}

    def remember(_module, _arguments, keywords):
        given.update(keywords)

    tiny_model.language_model.model.register_forward_pre_hook(remember, with_kwargs=True)
    hidden = tiny_model(tiny_batch)
    inputs, tokens = given["inputs_embeds"], tiny_model.get_input_embeddings()(tiny_batch.input_ids)
    assert hidden.shape == (*tiny_batch.input_ids.shape, 192)
    assert inputs.shape[1] == tiny_batch.input_ids.shape[1] + 16 + 1
    assert torch.equal(inputs[:, 0], tokens[:, 0])
    patches = tiny_model.projector(tiny_model.vision_backbone(tiny_batch.pixel_values[:, 0]))
    torch.testing.assert_close(inputs[:, 1:17], patches)
    torch.testing.assert_close(inputs[:, 17], tiny_model.proprio_projector(tiny_batch.state))
    slots = tiny_batch.placeholders[:, 1:]
    assert torch.equal(inputs[:, 18:][~slots], tokens[:, 1:][~slots])
    assert (inputs[:, 18:][slots] == 0).all()


@torch.no_grad()
def test_the_ids_at_placeholders_do_not_matter(tiny_model: OpenVLA, tiny_batch: Batch):
    answer = torch.where(tiny_batch.placeholders, torch.randint(256, 512, tiny_batch.input_ids.shape), tiny_batch.input_ids)
    assert torch.equal(tiny_model(replace(tiny_batch, input_ids=answer)), tiny_model(tiny_batch))


@pytest.mark.parametrize("parallel", [True, False])
@torch.no_grad()
def test_a_later_token_reaches_back_only_in_parallel(tiny_model: OpenVLA, tiny_batch: Batch, parallel: bool):
    tiny_model.config.prompt_attention = "causal"
    batch = tiny_batch if parallel else replace(tiny_batch, placeholders=torch.zeros_like(tiny_batch.placeholders), parallel=False)
    position, longest = 8, batch.attention_mask.all(dim=1)
    assert longest.any()
    ids = batch.input_ids.clone()
    ids[:, position] = 7
    change = (tiny_model(replace(batch, input_ids=ids)) - tiny_model(batch)).abs().amax(dim=-1)
    assert (change[:, position:][batch.attention_mask[:, position:]] > 1e-4).any()
    if parallel:
        assert (change[:, :position] > 1e-5).all()
    else:
        assert (change[:, :position] < 1e-6).all()


@pytest.mark.parametrize("parallel", [True, False])
@torch.no_grad()
def test_padding_reaches_nothing(tiny_model: OpenVLA, tiny_batch: Batch, parallel: bool):
    slots = tiny_batch.placeholders & parallel
    mask = torch.cat([tiny_batch.attention_mask, torch.zeros(3, 6, dtype=torch.bool)], dim=1)
    padded = replace(
        tiny_batch,
        input_ids=F.pad(tiny_batch.input_ids, (0, 6), value=PADDING),
        placeholders=F.pad(slots, (0, 6)),
        attention_mask=mask,
        parallel=parallel,
        padded=True,
        labels=None,
    )
    other = replace(padded, input_ids=padded.input_ids.masked_fill(~mask, 33))
    alone = tiny_model(replace(tiny_batch, placeholders=slots, parallel=parallel))[tiny_batch.attention_mask]
    torch.testing.assert_close(tiny_model(padded)[mask], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tiny_model(other)[mask], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@torch.no_grad()
def test_a_prompt_sees_itself_but_no_code(tiny_model: OpenVLA, tiny_batch: Batch, attention: str):
    tiny_model.config.prompt_attention = attention
    batch = replace(tiny_batch, placeholders=torch.zeros_like(tiny_batch.placeholders), parallel=False)  # codes one after the other
    before, length = tiny_model(batch), int(batch.prompt_length[0])
    ids = batch.input_ids.clone()
    ids[0, length + 1] = 300
    after = tiny_model(replace(batch, input_ids=ids))
    assert torch.equal(after[0, : length + 1], before[0, : length + 1])
    assert not torch.allclose(after[0, length + 1 :], before[0, length + 1 :])
    ids = batch.input_ids.clone()
    ids[0, length - 1] = 20  # the last of the prompt
    after = tiny_model(replace(batch, input_ids=ids))
    assert torch.equal(after[0, 0], before[0, 0]) == (attention == "causal")


def test_an_unknown_prompt_attention_is_refused():
    with pytest.raises(ValueError, match=r"prompt_attention='full': choose one of causal, bidirectional"):
        OpenVLAConfig(prompt_attention="full")


def test_the_prefix_mask():
    seen = torch.tensor([[True, True, True, True, False]])
    mask = prefix_mask(seen, torch.tensor([2]), torch.float32)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
    ]


def test_the_bidirectional_mask():
    seen = torch.tensor([[True, True, False], [True, True, True]])
    mask = bidirectional_mask(seen, torch.float32)
    assert mask.shape == (2, 1, 3, 3)
    assert ((mask == 0) == seen[:, None, None].expand(2, 1, 3, 3)).all()
    assert (mask[0, 0, :, 2] == torch.finfo(torch.float32).min).all()


@torch.no_grad()
def test_several_views_are_read_in_their_order(tiny_model: OpenVLA, tiny_batch: Batch):
    first, second = torch.randn(2, 3, 1, 3, 64, 64)
    both = replace(tiny_batch, pixel_values=torch.cat([first, second], dim=1))
    context = tiny_model.context(both.pixel_values, both.state)
    assert context.shape == (3, 2 * 16 + 1, 192)
    torch.testing.assert_close(context[:, :16], tiny_model.context(first, both.state)[:, :16])
    torch.testing.assert_close(context[:, 16:32], tiny_model.context(second, both.state)[:, :16])
    assert tiny_model(both).shape == (*both.input_ids.shape, 192)
    swapped = replace(tiny_batch, pixel_values=torch.cat([second, first], dim=1))
    assert (tiny_model(swapped) - tiny_model(both)).abs().max() > 1e-4


def other_state(batch: Batch) -> Batch:
    return replace(batch, state=batch.state + 0.5)


def other_image(batch: Batch) -> Batch:
    pixels = batch.pixel_values.clone()
    pixels[..., 16:32, 16:32] += 1.0
    return replace(batch, pixel_values=pixels)


def other_word(batch: Batch) -> Batch:
    ids = batch.input_ids.clone()
    ids[:, 10] = (ids[:, 10] + 1) % 170
    return replace(batch, input_ids=ids)


@pytest.mark.parametrize("change", [other_state, other_image, other_word])
@torch.no_grad()
def test_everything_that_is_said_and_seen_arrives(tiny_model: OpenVLA, tiny_batch: Batch, change):
    slots = tiny_batch.placeholders
    difference = tiny_model(change(tiny_batch))[slots] - tiny_model(tiny_batch)[slots]
    assert (difference.abs().amax(dim=-1) > 1e-4).all()


def test_samples_of_a_batch_do_not_meet(tiny_model: OpenVLA, tiny_batch: Batch):
    with torch.no_grad():
        together = tiny_model(tiny_batch)
        row = {
            name: getattr(tiny_batch, name)[1:2]
            for name in ("pixel_values", "input_ids", "attention_mask", "placeholders", "prompt_length", "state")
        }
        row |= {"parallel": tiny_batch.parallel, "padded": not bool(tiny_batch.attention_mask[1].all())}
        torch.testing.assert_close(tiny_model(Batch(**row)), together[1:2], atol=1e-5, rtol=1e-5)


def test_transformers_saves_and_loads_it(tiny_model: OpenVLA, tiny_batch: Batch, tmp_path: Path):
    tiny_model.save_pretrained(tmp_path)
    again = OpenVLA.from_pretrained(tmp_path, local_files_only=True)
    own = tiny_model.state_dict()
    assert own.keys() == again.state_dict().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in again.state_dict().items())
    assert again.config.to_dict()["timm_kwargs"] == tiny_config().timm_kwargs
    assert again.config.text_config.to_dict()["num_hidden_layers"] == 4
    with torch.no_grad():
        torch.testing.assert_close(again(tiny_batch), tiny_model.eval()(tiny_batch))


def test_the_published_configuration_means_the_same():
    record = {"model_type": "openvla", "timm_model_ids": [SIGLIP[0]], "image_sizes": [224], "hf_llm_id": "meta-llama/Llama-2-7b-hf"}
    config = OpenVLAConfig.from_dict(record | {"text_config": {"vocab_size": 32064}})
    assert config.vocabulary_size == 32000
    assert config.n_action_bins == 256
    assert config.text_config.rms_norm_eps == 1e-6, "the published conversion, not Llama-2's 1e-5"
    assert config.timm_kwargs == [{}]
    assert config.to_dict()["hf_llm_id"] == "meta-llama/Llama-2-7b-hf"


def test_a_kernel_that_sees_only_backwards_is_refused(tiny_model, tiny_batch, monkeypatch) -> None:
    """It would take the mask of a parallel head for one of padding, and keep nothing."""
    monkeypatch.setattr(tiny_model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="attention=flash_attention_2 shows a position only what came before"):
        tiny_model(tiny_batch)
