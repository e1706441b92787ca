"""Folders that peft wrote: read strictly, and ours opened by peft."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from vla_tune.adapters import Adapter, Begun, Lora, PublishedLora
from vla_tune.models.nf4 import NF4, quantize

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD = "base_model.model.language_model.lm_head.base_layer.weight"
PATCHES = "base_model.model.vision_backbone.featurizer.patch_embed.proj.lora_A.weight"
ALL = ["up_proj", "fc2", "down_proj", "q_proj", "k_proj", "lm_head", "o_proj", "fc1", "gate_proj", "proj", "v_proj", "qkv"]
TOWERS = ("vision_backbone", "projector", "language_model")
OLD_TRANSFORMERS = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft 0.21 asks transformers 5


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the original's adapter over every linear layer, written by peft 0.11.1."""
    shutil.copytree(GOLDEN / "lora_all", tmp_path / "published")
    return tmp_path / "published"


def published(folder: Path, base: str = "fp32") -> PublishedLora:
    return PublishedLora(folder=str(folder), base=base)


def edit_config(folder: Path, **changes) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change, metadata: dict[str, str] | None = None) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata=metadata or {"format": "pt"})


def test_every_weight_of_the_file_is_in_the_model(folder, golden_base):
    adapter, model = published(folder), golden_base()
    report = adapter.attach(model)
    assert isinstance(adapter, Adapter)
    assert sum(report.modules.values()) == 35
    saved = load_file(folder / WEIGHTS)
    assert torch.equal(saved.pop(HEAD), model.language_model.lm_head.base_layer.weight)
    learning = adapter.lora.stored(model)
    assert learning.keys() == saved.keys()
    assert all(torch.equal(learning[name], tensor) for name, tensor in saved.items())
    assert (adapter.lora.alpha, adapter.lora.rank, adapter.lora.initialisation) == (4, 8, "gaussian")


def to_bfloat16(tensors):
    tensors |= {name: tensor.bfloat16() for name, tensor in tensors.items()}


@pytest.mark.parametrize("base", ["fp32", "bf16"])
def test_bfloat16_weights_are_read_into_float32(folder, golden_base, base):
    """As the original saves them; its base is bfloat16 as well."""
    edit_weights(folder, to_bfloat16)
    model = golden_base({"fp32": torch.float32, "bf16": torch.bfloat16}[base])
    adapter = published(folder, base)
    adapter.attach(model)
    weight = adapter.lora.stored(model)[PATCHES]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, load_file(folder / WEIGHTS)[PATCHES].float())


def test_it_trains_on_as_an_adapter_of_ours(folder, golden_base, tmp_path):
    adapter, model = published(folder), golden_base()
    adapter.attach(model)
    with torch.no_grad():
        next(iter(adapter.lora.stored(model).values())).add_(1.0)
    adapter.save(tmp_path / "ours", model, base_hash="a" * 64)
    again = golden_base()
    adapter.attach(again)
    adapter.load(tmp_path / "ours", again, base_hash="a" * 64)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="hash"):
        adapter.load(tmp_path / "ours", again, base_hash="b" * 64)


def test_a_new_run_begins_where_one_of_ours_ended(folder, golden_base, tmp_path):
    adapter, model = published(folder), golden_base()
    adapter.attach(model)
    adapter.begin(model, base_hash="a" * 64)  # it names no base: its weights are there
    with torch.no_grad():
        next(iter(adapter.lora.stored(model).values())).add_(1.0)
    adapter.save(tmp_path / "ours", model, base_hash="a" * 64)
    following, again = published(tmp_path / "ours"), golden_base()
    assert isinstance(following, Begun)
    following.attach(again)
    with pytest.raises(ValueError, match="hash"):
        following.begin(again, base_hash="b" * 64)
    following.begin(again, base_hash="a" * 64)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_another_base_is_recognised_by_its_head(folder, golden_base):
    model = golden_base()
    with torch.no_grad():
        model.language_model.lm_head.weight[3, 5] *= 1.01
    with pytest.raises(ValueError, match=r"lm_head\.base_layer\.weight is not that of the model: the adapter belongs to another"):
        published(folder).attach(model)


def test_a_4_bit_head_cannot_be_compared(folder, tiny_model, tmp_path):
    model = tiny_model.to(torch.bfloat16)
    Lora(rank=2, alpha=2, targets=["lm_head"]).attach(model)
    tensors = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lm_head" in name}
    plain = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    edit_config(folder, r=2, lora_alpha=2, target_modules=["lm_head"])
    other = type(tiny_model)(tiny_model.config).to(torch.bfloat16)
    quantize(other, NF4(targets=["lm_head"]))
    with pytest.raises(ValueError, match="whose layer is 4-bit"):
        published(folder, "nf4").attach(other)


def drop_one(tensors):
    del tensors[PATCHES]


def rename_one(tensors):
    tensors[PATCHES.replace("featurizer", "fused_featurizer")] = tensors.pop(PATCHES)


def add_one(tensors):
    tensors["base_model.model.projector.fc1.lora_A.bias"] = torch.zeros(8)


def add_a_stray_base_layer(tensors):
    tensors[HEAD.replace("lm_head", "no_head")] = torch.zeros(8)


def cut_one(tensors):
    tensors[PATCHES] = tensors[PATCHES][:4].clone()


def make_integers(tensors):
    tensors[PATCHES] = tensors[PATCHES].int()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_one, "1 tensors missing .*, 0 left over"),
        (rename_one, "1 tensors missing .*, 1 left over"),
        (add_one, "0 tensors missing .*, 1 left over"),
        (add_a_stray_base_layer, "0 tensors missing .*, 1 left over"),
        (cut_one, r"is torch.float32 \(4, 3, 14, 14\), the model has torch.float32 \(8, 3, 14, 14\)"),
        (make_integers, "is torch.int32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, golden_base, change, message):
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        published(folder).attach(golden_base())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"has \{'use_dora': True\}: only plain LoRA is read"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "'bias': 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"some_new_field": 3}, "some_new_field"),
        ({"r": None}, "says nothing about r: it is no configuration"),
        ({"target_modules": ["q_proj", "nothing"]}, "'nothing' matches nothing"),
        ({"target_modules": ["q_proj"]}, "no target lies in"),
    ],
)
def test_what_is_no_plain_lora_is_refused(folder, golden_base, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        published(folder).attach(golden_base())


def test_a_name_for_all_targets_is_read_from_the_weights(folder, golden_base):
    listed = published(folder).lora
    edit_config(folder, target_modules="all-linear")
    assert published(folder).lora == listed


def test_a_pickle_is_not_opened(folder, golden_base):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="a pickle, which can run any code"):
        published(folder).attach(golden_base())
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors is missing"):
        published(folder).attach(golden_base())
    (folder / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json is missing"):
        published(folder).attach(golden_base())


@pytest.mark.filterwarnings(OLD_TRANSFORMERS)
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning", "ignore:Setting `save_embedding_layers`:UserWarning")
def test_what_todays_peft_saves_is_read(golden_base, golden_batch, tmp_path):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "projector.fc1", "lm_head"], modules_to_save=["projector.fc2"])
    theirs = get_peft_model(golden_base(), config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.requires_grad:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    theirs.save_pretrained(tmp_path / "peft")
    model, adapter = golden_base(), published(tmp_path / "peft")
    adapter.attach(model)
    with torch.no_grad():
        assert torch.equal(model(golden_batch), theirs.base_model.model(golden_batch))


@pytest.mark.filterwarnings(OLD_TRANSFORMERS)
@pytest.mark.parametrize("base", ["fp32", "bf16", "nf4"])
def test_peft_opens_ours(load_base, tiny_batch, tmp_path, base):
    """Convolution, vocabulary head, all towers, and a module that learned in full."""
    adapter = Lora(
        rank=4, alpha=2, targets=ALL, towers=TOWERS, base=base, initialisation="gaussian", learned_in_full=["proprio_projector"]
    )
    model = load_base(base)
    adapter.attach(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter.stored(model).values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    adapter.save(tmp_path / "ours", model, base_hash="a" * 64)
    theirs = PeftModel.from_pretrained(load_base(base), tmp_path / "ours").eval()

    def outputs(model) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=base != "fp32"):
            return model.vocabulary_logits(model(tiny_batch)[tiny_batch.placeholders])

    assert torch.equal(outputs(theirs.base_model.model), outputs(model))
    assert not torch.equal(outputs(load_base(base)), outputs(model))
