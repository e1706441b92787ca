"""An OpenVLA of 39 million parameters, and what training it really takes."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vla_tune.adapters import Lora, training_context
from vla_tune.data.collate import Batch
from vla_tune.models.base import ActionModel, Loss, Outline
from vla_tune.models.heads import RegressionHead
from vla_tune.models.heads.codes import ActionSpace, WholeVocabulary, before, labelled, rows_of
from vla_tune.models.nf4 import quantize
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.additions import Addition, extended, module_patterns
from vla_tune.models.openvla.load import OPENVLA_NF4
from vla_tune.models.openvla.outline import outline
from vla_tune.models.precision import choose_attention, weight_dtype
from vla_tune.plan import Load
from vla_tune.tokens import BinTokenizer, uniform_edges
from vla_tune.training.update import Objective

VISION = {"patch_size": 16, "depth": 4, "num_heads": 4, "class_token": False, "global_pool": "avg"}
LANGUAGE = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1408,
    "vocab_size": 2048 + 64,
    "pad_token_id": 2048,
    "rms_norm_eps": 1e-6,
}
PATCHES = 36


class TokenLoss:
    """OpenVLA's loss without a contract: what is kept for it does not depend on the targets."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def loss(self, batch: Batch) -> Loss:
        positions = labelled(batch.labels)
        assert batch.labels is not None
        hidden, labels = self.network(batch)[before(positions)], batch.labels[positions]
        rows = torch.arange(1792, 2048, device=hidden.device)
        log_probabilities, best = WholeVocabulary()(self.network, hidden, rows)
        return Loss(-log_probabilities[:, 0], best == labels, rows_of(positions))

    def act(self, batch: Batch) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Middle:
    """A model of middle size; `text` changes its language model, and `additions` are put beside it."""

    text: dict[str, Any]
    additions: tuple[Addition, ...] = ()

    @property
    def config(self) -> OpenVLAConfig:
        plain = OpenVLAConfig(
            timm_model_ids=["vit_tiny_patch16_224", "vit_tiny_patch16_224"],
            image_sizes=[96, 96],
            timm_kwargs=[VISION | {"embed_dim": 256}, VISION | {"embed_dim": 320, "init_values": 1e-5}],
            text_config=LANGUAGE | self.text,
        )
        return extended(plain, self.additions)

    def outline(self) -> Outline:
        return outline(self.config, untrained=module_patterns(self.additions))

    def weights(self, base: str, *, device: str = "cpu") -> OpenVLA:
        """With weights in the format `base`."""
        torch.manual_seed(0)
        model = OpenVLA(self.config).to(weight_dtype(base))
        if base == "nf4":
            quantize(model, OPENVLA_NF4, device=device)
        return model

    def trained(self, adapter: Any, *, device: str = "cpu") -> OpenVLA:
        """With weights in the adapter's format, and the adapter."""
        model = self.weights(adapter.base, device=device)
        model.untrained = module_patterns(self.additions)
        choose_attention(model, device)
        nn.Module.to(model, device)
        adapter.attach(model)
        return model.train()

    def batch(self, load: Load, *, codes: int, device: str = "cpu") -> Batch:
        """As long as `load` says; `codes` placeholders at the end make it a parallel one."""
        generator = torch.Generator().manual_seed(0)
        size, text = load.batch_size, load.length - load.cameras * PATCHES
        ids = torch.randint(3, 2000, (size, text), generator=generator)
        placeholders = torch.zeros(size, text, dtype=torch.bool)
        placeholders[:, text - 1 - codes : text - 1] = codes > 0
        labels = torch.full((size, text), -100)
        labels[:, text - 1 - load.labels : text - 1] = ids[:, text - 1 - load.labels : text - 1]
        return Batch(
            pixel_values=torch.randn(size, load.cameras, 6, 96, 96, generator=generator),
            input_ids=ids,
            attention_mask=torch.ones(size, text, dtype=torch.bool),
            placeholders=placeholders,
            prompt_length=torch.full((size,), text - 1 - load.labels),
            parallel=codes > 0,
            padded=False,
            state=torch.zeros(size, 4),
            labels=labels,
            actions=torch.zeros(size, load.actions, 4),
            action_mask=torch.ones(size, load.actions, 4, dtype=torch.bool),
        ).to(device)

    def action_model(self, network: OpenVLA, batch: Batch) -> ActionModel:
        """Regression, if there is an action head."""
        assert batch.actions is not None
        if not self.config.action_head_dimension:
            return TokenLoss(network)
        tokenizer = BinTokenizer(uniform_edges(256), 2048)
        horizon = batch.actions.shape[1]
        space = ActionSpace(tokenizer=tokenizer, horizon=horizon, action_dimension=4, stop_id=2)
        return RegressionHead(space).over(network)

    def loss(self, model: OpenVLA, batch: Batch, *, precision: str = "bf16") -> Tensor:
        """As training computes it."""
        objective = Objective(self.action_model(model, batch))
        if precision == "fp32":
            return objective(batch).loss
        with training_context(model), torch.autocast(batch.input_ids.device.type, torch.bfloat16):
            return objective(batch).loss

    def kept(self, model: OpenVLA, batch: Batch, *, precision: str) -> int:
        """Bytes that the forward pass keeps for the backward pass, counted by autograd itself; weights are left out."""
        own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
        seen: dict[int, Any] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(model, batch, precision=precision)
            total = sum(storage.nbytes() for storage in seen.values())
        assert loss.requires_grad
        return total


@pytest.fixture
def middle(request: pytest.FixtureRequest) -> Middle:
    return Middle(getattr(request, "param", {}))


@pytest.fixture
def lora() -> Lora:
    return Lora(rank=16, alpha=32, targets=("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"))
