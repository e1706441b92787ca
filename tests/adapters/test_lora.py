from contextlib import nullcontext

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from vla_tune.adapters import Adapter, Lora, training_context
from vla_tune.adapters.lora import update
from vla_tune.models.nf4 import dequantized, plain_weights
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.load import empty_model
from vla_tune.models.precision import choose_attention, num_parameters

TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
FORMATS = ("fp32", "bf16", "nf4")
LAYER = "language_model.model.layers.1.self_attn.q_proj"


def lora(base: str, /, **changes) -> Lora:
    return Lora(**{"rank": 4, "alpha": 8, "targets": TARGETS, "base": base} | changes)


def randomize(model: OpenVLA) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def outputs(model: OpenVLA, batch) -> Tensor:
    with torch.no_grad():
        hidden = model(batch)
        return model.vocabulary_logits(hidden[batch.placeholders])


def gradients(model: OpenVLA, head, batch, context=nullcontext) -> dict[str, Tensor]:
    model.train().zero_grad()
    with context(), torch.autocast("cpu", torch.bfloat16):
        loss = head.over(model).loss(batch).loss
    loss.backward()
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is not None for parameter in learning.values())
    return {"loss": loss.detach()} | {name: parameter.grad.clone() for name, parameter in learning.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_model(tensors: dict[str, Tensor], like: OpenVLA) -> OpenVLA:
    model = empty_model(like.config)
    model.load_state_dict(tensors, assign=True)
    choose_attention(model, "cpu")
    return model.eval()


@pytest.mark.parametrize("base", FORMATS)
@pytest.mark.parametrize("autocast", [False, True])
def test_at_initialisation_the_adapted_model_is_the_base_exactly(load_base, tiny_batch, base, autocast):
    model = load_base(base)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = outputs(model, tiny_batch)
        lora(base).attach(model)
        assert torch.equal(outputs(model, tiny_batch), before)
    assert isinstance(model, OpenVLA)
    assert isinstance(lora(base), Adapter)


@pytest.mark.parametrize("base", FORMATS)
def test_report_counts_what_learns(load_base, base):
    model = load_base(base)
    own = num_parameters(model)
    report = lora(base).attach(model)
    trainable = 4 * 4 * (2 * (192 + 192) + 2 * (192 + 512) + (512 + 192))  # rank 4, four layers
    assert (report.trainable, report.total) == (trainable, own + trainable)
    assert dict(report.modules) == {"vision_backbone": 0, "projector": 0, "language_model": 20, "proprio_projector": 0}
    assert report.modules_4bit == (28 if base == "nf4" else 0)
    assert report.percent == pytest.approx(100 * trainable / (own + trainable))
    text = str(report)
    assert f"{trainable:,} of {own + trainable:,} parameters learn ({report.percent:.3f} %)" in text
    assert "20 in language_model" in text
    assert f"4-bit modules: {report.modules_4bit}." in text


@pytest.mark.parametrize("base", FORMATS)
def test_only_the_adapter_learns_and_in_float32(load_base, base):
    model = load_base(base)
    lora(base).attach(model)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 40
    assert all(".lora_" in name and parameter.dtype == torch.float32 for name, parameter in learning.items())


def test_targets_may_lie_in_another_tower(load_base):
    report = lora("bf16", targets=["attn.qkv", "fc1", "fc2"], towers=["vision_backbone", "projector"]).attach(load_base("bf16"))
    assert dict(report.modules) == {"vision_backbone": 9, "projector": 2, "language_model": 0, "proprio_projector": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["q_proj", "value"]}, r"'value' matches nothing within language_model; the nearest .*\.v_proj"),
        ({"targets": ["attn.qkv"]}, "matches nothing within language_model"),
        ({"targets": ["self_attn*"]}, r"also match language_model.*self_attn \(LlamaAttention\), no linear layer"),
        ({"targets": []}, "name at least one"),
        ({"base": "nf4"}, r"for base=nf4, the model has bf16 weights \(0 4-bit modules\): load it with base=nf4"),
        ({"base": "fp32"}, "for base=fp32, the model has bf16 weights"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_and_changes_nothing(load_base, changes, message):
    model = load_base("bf16")
    with pytest.raises(ValueError, match=message):
        lora("bf16", **changes).attach(model)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"base": "int8"}, "choose one of fp32, bf16"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        lora("bf16", **changes)


def test_a_second_adapter_is_refused(adapted):
    adapter, model = adapted("bf16")
    with pytest.raises(ValueError, match="carries a LoRA adapter already"):
        adapter.attach(model)


def test_an_adapter_that_never_learned_is_not_merged(load_base, adapted, merge_in_memory):
    model = load_base("bf16")
    adapter = lora("bf16")
    adapter.attach(model)
    with pytest.raises(ValueError, match="every B of the 20 LoRA layers is zero"):
        merge_in_memory(adapter, model, dtype=torch.bfloat16)
    assert merge_in_memory(*adapted("bf16"), dtype=torch.bfloat16)


@pytest.mark.parametrize("base", FORMATS)
def test_an_evaluation_pass_leaves_the_gradients_as_they_were(adapted, tiny_head, tiny_batch, base):
    """On a CPU with avx512_bf16, bitsandbytes would make them exactly zero (perf.md, section 0, row 1)."""
    _, model = adapted(base)
    before = gradients(model, tiny_head, tiny_batch)
    outputs(model.eval(), tiny_batch)
    after = gradients(model, tiny_head, tiny_batch)
    assert equal(before, after)
    assert all(gradient.any() for gradient in after.values())


@pytest.mark.parametrize("base", ["bf16", "nf4"])
def test_leaving_out_the_input_casts_changes_no_bit_and_keeps_fewer_bytes(adapted, tiny_head, tiny_batch, base):
    _, model = adapted(base)
    sizes = []
    results = []
    for context in (nullcontext, lambda: training_context(model)):
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            results.append(gradients(model, tiny_head, tiny_batch, context))
        sizes.append(sum(kept.values()))
    assert equal(*results)
    assert sizes[1] < sizes[0] if base == "bf16" else sizes[1] <= sizes[0]  # peft casts on a 4-bit base only outside autocast


def test_merged_weights_act_as_the_adapter_does(adapted, tiny_batch, merge_in_memory):
    adapter, model = adapted("fp32")
    merged = plain_model(merge_in_memory(adapter, model, dtype=torch.float32), model)
    torch.testing.assert_close(outputs(merged, tiny_batch), outputs(model, tiny_batch), rtol=1e-4, atol=1e-4)


def test_merging_gives_the_bits_of_peft(adapted, merge_in_memory):
    adapter, model = adapted("fp32")
    merged = merge_in_memory(adapter, model, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    theirs = {name.replace(".base_layer.", "."): weight for name, weight in plain_weights(model) if ".lora_" not in name}
    assert equal(merged, theirs)


def test_a_merge_into_bfloat16_rounds_once(adapted, merge_in_memory):
    adapter, model = adapted("bf16")
    layer = model.get_submodule(LAYER)
    expected = (layer.base_layer.weight.detach().float() + update(layer)).bfloat16()
    merged = merge_in_memory(adapter, model, dtype=torch.bfloat16)
    assert torch.equal(merged[f"{LAYER}.weight"], expected)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert merged.keys() == empty_model(model.config).state_dict().keys()


def test_a_4_bit_base_is_dequantised_then_merged(adapted, load_base, merge_in_memory):
    adapter, model = adapted("nf4")
    merged = merge_in_memory(adapter, model, dtype=torch.float32)
    layer = model.get_submodule(LAYER)
    assert torch.equal(merged[f"{LAYER}.weight"], dequantized(layer.base_layer.weight).float() + update(layer))
    untouched = LAYER.replace("q_proj", "k_proj")
    assert torch.equal(merged[f"{untouched}.weight"], dequantized(model.get_submodule(untouched).weight).float())
    original = dict(load_base("bf16").named_parameters())[f"{LAYER}.weight"].detach().float()
    onto_original = original + update(layer)
    error = (onto_original - merged[f"{LAYER}.weight"]).norm() / original.norm()
    assert 0.05 < error < 0.15, "the rounding of NF4, which training saw, belongs to the merged weights"


def test_a_merge_after_an_evaluation_pass_gives_the_same_bits(adapted, tiny_batch, merge_in_memory):
    """On a CPU with avx512_bf16, bitsandbytes would make it 47 % wrong (perf.md, section 0, row 3)."""
    adapter, model = adapted("nf4")
    before = merge_in_memory(adapter, model, dtype=torch.bfloat16)
    outputs(model.eval(), tiny_batch)
    assert equal(merge_in_memory(adapter, model, dtype=torch.bfloat16), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_merging_into_4_bits_is_refused(adapted, dtype, merge_in_memory):
    adapter, model = adapted("nf4")
    with pytest.raises(ValueError, match="Merging into 4 bits again"):
        merge_in_memory(adapter, model, dtype=dtype)


def test_the_initial_values_of_a(load_base):
    """peft's names for them: Kaiming's uniform has the bound 1 / sqrt(inputs), the normal one the deviation 1 / rank."""
    for initialisation, deviation, most in (("kaiming", 192**-0.5 / 3**0.5, 192**-0.5), ("gaussian", 1 / 4, 2.0)):
        model = load_base("fp32")
        torch.manual_seed(0)
        lora("fp32", targets=["q_proj", "v_proj"], initialisation=initialisation).attach(model)
        values = torch.cat([weight.flatten() for name, weight in model.named_parameters() if ".lora_A." in name])
        assert values.std().item() == pytest.approx(deviation, rel=0.03)
        assert values.abs().max() <= most
    with pytest.raises(ValueError, match="initialisation='pissa': choose one of kaiming, gaussian"):
        lora("fp32", initialisation="pissa")


EVERYWHERE = {
    "targets": ["proj", "qkv", "fc1", "fc2", "*_proj", "lm_head"],
    "towers": ["vision_backbone", "projector", "language_model"],
}


@pytest.mark.parametrize("base", FORMATS)
def test_every_linear_map_can_be_adapted_and_merged(load_base, tiny_batch, base, merge_in_memory):
    """Convolution and vocabulary head included; the merge is what the layers do, for a convolution and a 4-bit layer too."""
    adapter, model = lora(base, **EVERYWHERE), load_base(base)
    with torch.no_grad():
        before = outputs(model, tiny_batch)
    report = adapter.attach(model)
    assert dict(report.modules) == {"vision_backbone": 13, "projector": 2, "language_model": 29, "proprio_projector": 0}
    assert torch.equal(outputs(model, tiny_batch), before)
    randomize(model)
    merged = plain_model(merge_in_memory(adapter, model, dtype=torch.float32), model)
    exact = plain_model({name: weight.float() for name, weight in merged.state_dict().items()}, model)
    tolerance = 1e-3 if base == "fp32" else 0.1
    after = outputs(model, tiny_batch)
    assert (after - before).abs().mean() > 10 * tolerance * before.std()
    assert (outputs(exact, tiny_batch) - after).abs().mean() < tolerance * after.std()


def test_a_merged_convolution_is_that_of_peft(load_base, merge_in_memory):
    adapter, model = lora("fp32", targets=["patch_embed.proj"], towers=["vision_backbone"]), load_base("fp32")
    adapter.attach(model)
    randomize(model)
    layer = model.get_submodule("vision_backbone.featurizer.patch_embed.proj")
    merged = merge_in_memory(adapter, model, dtype=torch.float32)["vision_backbone.featurizer.patch_embed.proj.weight"]
    layer.merge()
    torch.testing.assert_close(merged, layer.base_layer.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect", "padding": 1}])
def test_an_unusual_convolution_is_refused(change):
    model = torch.nn.ModuleDict({"tower": torch.nn.ModuleDict({"conv": torch.nn.Conv2d(4, 4, 3, **change)})})
    with pytest.raises(ValueError, match="'conv' matches nothing"):
        lora("fp32", targets=["conv"], towers=["tower"]).attach(model)


def test_a_tower_without_a_target_is_refused(load_base):
    cases = [
        (["language_model", "projector"], "no target lies in projector"),
        (["language"], r"the model has no language; its parts are .*vision_qwen"),
    ]
    for towers, message in cases:
        with pytest.raises(ValueError, match=message):
            lora("bf16", towers=towers).attach(load_base("bf16"))
    everywhere = lora("bf16", towers=()).attach(load_base("bf16"))
    assert dict(everywhere.modules) == dict(lora("bf16").attach(load_base("bf16")).modules)


def test_tied_embeddings_are_no_target(load_base):
    model = load_base("bf16")
    model.language_model.lm_head.weight = model.get_input_embeddings().weight
    with pytest.raises(ValueError, match="lm_head shares its weights"):
        lora("bf16", targets=["lm_head"]).attach(model)


FULL = ("proprio_projector", "layers.0.input_layernorm")


@pytest.mark.parametrize("base", FORMATS)
def test_modules_may_learn_in_full_beside_the_change(load_base, tiny_batch, tmp_path, base, merge_in_memory):
    adapter, model = lora(base, learned_in_full=FULL), load_base(base)
    plain = {name: weight.clone() for name, weight in plain_weights(model)}
    report = adapter.attach(model)
    own = {f"proprio_projector.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
    own |= {"language_model.model.layers.0.input_layernorm.weight"}
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name in learning if ".lora_" not in name} == own
    assert {weight.dtype for weight in learning.values()} == {torch.float32}
    assert dict(report.modules) == {"vision_backbone": 0, "projector": 0, "language_model": 21, "proprio_projector": 2}
    assert report.trainable == lora(base).attach(load_base(base)).trainable + sum(plain[name].numel() for name in own)
    randomize(model)
    with torch.no_grad():
        for name in own:
            learning[name].add_(1e-6)  # a step that bfloat16 would round away
    adapter.save(tmp_path / "saved", model, base_hash="a" * 64)
    again = load_base(base)
    adapter.attach(again)
    adapter.load(tmp_path / "saved", again, base_hash="a" * 64)
    assert equal({name: dict(again.named_parameters())[name] for name in learning}, learning)
    merged = merge_in_memory(adapter, again, dtype=torch.float32)
    assert merged.keys() == plain.keys()
    for name in own:
        assert torch.equal(merged[name], plain[name].float() + 1e-6)
    other, fresh = lora(base), load_base(base)
    other.attach(fresh)
    with pytest.raises(ValueError, match="modules_to_save is"):
        other.load(tmp_path / "saved", fresh, base_hash="a" * 64)


def test_what_learns_in_full_gets_gradients(load_base, tiny_head, tiny_batch):
    model = load_base("bf16")
    lora("bf16", learned_in_full=["proprio_projector"]).attach(model)
    randomize(model)
    found = gradients(model, tiny_head, tiny_batch)
    assert all(gradient.any() for name, gradient in found.items() if name.startswith("proprio_projector."))


@pytest.mark.parametrize(
    ("base", "patterns", "message"),
    [
        ("bf16", ["action_head"], "'action_head' matches nothing"),
        ("bf16", ["layers.0.self_attn"], r"match language_model.*self_attn, and .*q_proj is a target already"),
        ("bf16", ["layers.0.self_attn.q_proj"], "is a target already"),
        ("bf16", ["rotary_emb"], "has no weights"),
        ("nf4", ["layers.0.self_attn.k_proj"], "or 4-bit ones, which cannot learn"),
    ],
)
def test_what_cannot_learn_in_full_is_refused_and_changes_nothing(load_base, base, patterns, message):
    model = load_base(base)
    with pytest.raises(ValueError, match=message):
        lora(base, learned_in_full=patterns).attach(model)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
