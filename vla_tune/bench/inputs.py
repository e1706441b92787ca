"""Random models and batches of a given shape: they cost what real ones cost."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vla_tune.data.collate import Batch
from vla_tune.models.heads.codes import ActionSpace
from vla_tune.models.nf4 import quantize
from vla_tune.models.openvla import OpenVLA, OpenVLAConfig
from vla_tune.models.openvla.load import OPENVLA_NF4, empty_model
from vla_tune.models.precision import choose_attention, weight_dtype
from vla_tune.tokens import IGNORED, BinTokenizer, uniform_edges

STOP_ID = 2


def random_model(config: OpenVLAConfig, *, dtype: torch.dtype, device: torch.device | str, seed: int) -> OpenVLA:
    """A model with random weights, made where it stays: nothing of it is ever elsewhere, or in another format."""
    generator = torch.Generator(device).manual_seed(seed)
    model = empty_model(config)
    for name, parameter in list(model.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        weight = torch.empty(parameter.shape, dtype=dtype, device=device)
        weight.normal_(std=0.02, generator=generator) if weight.ndim > 1 else weight.fill_(0.5)
        setattr(model.get_submodule(parent), leaf, nn.Parameter(weight))
    nn.Module.to(model, device)  # the buffers
    return model.eval()


def random_base(config: OpenVLAConfig, *, base: str, device: torch.device | str, seed: int) -> OpenVLA:
    """A random model in the format `base`, quantised where it lies, with the attention kernel that suits `device`."""
    model = random_model(config, dtype=weight_dtype(base), device=device, seed=seed)
    if base == "nf4":
        quantize(model, OPENVLA_NF4, device=device)
    choose_attention(model, device)
    return model


def action_space(config: OpenVLAConfig, *, horizon: int, action_dimension: int) -> ActionSpace:
    """Uniform bins at the end of the vocabulary, as published."""
    tokenizer = BinTokenizer(uniform_edges(config.n_action_bins), config.vocabulary_size)
    return ActionSpace(tokenizer=tokenizer, horizon=horizon, action_dimension=action_dimension, stop_id=STOP_ID)


def causal_batch(config: OpenVLAConfig, space: ActionSpace, *, rows: int, prompt_length: int, labelled: bool, seed: int) -> Batch:
    """Prompt, codes and the end, with labels at the codes and the end; the prompt alone where nothing is to be learned."""
    prompt, codes = _ids(config, space, rows=rows, prompt_length=prompt_length, seed=seed)
    ids = torch.cat([prompt, codes, torch.full((rows, 1), STOP_ID)], dim=1) if labelled else prompt
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < prompt_length, IGNORED) if labelled else None
    return _batch(config, ids, torch.zeros_like(ids, dtype=torch.bool), prompt_length, labels, seed=seed)


def parallel_batch(config: OpenVLAConfig, space: ActionSpace, *, rows: int, prompt_length: int, seed: int) -> Batch:
    """Prompt, a placeholder for every code, and the end."""
    prompt, codes = _ids(config, space, rows=rows, prompt_length=prompt_length, seed=seed)
    ids = torch.cat([prompt, torch.full((rows, codes.shape[1] + 1), STOP_ID)], dim=1)
    places = torch.arange(ids.shape[1])
    placeholders = (places >= prompt_length) & (places < prompt_length + codes.shape[1])
    return _batch(config, ids, placeholders.expand_as(ids).contiguous(), prompt_length, None, seed=seed)


def _ids(
    config: OpenVLAConfig, space: ActionSpace, *, rows: int, prompt_length: int, seed: int
) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B K"]]:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(3, config.vocabulary_size - config.n_action_bins, (rows, prompt_length), generator=generator)
    count = space.tokenizer.num_codes(space.horizon, space.action_dimension)
    chosen = torch.randint(0, config.n_action_bins, (rows, count), generator=generator)
    return prompt, config.vocabulary_size - 1 - chosen


def _batch(
    config: OpenVLAConfig,
    ids: Int[Tensor, "B L"],
    placeholders: Tensor,
    prompt_length: int,
    labels: Int[Tensor, "B L"] | None,
    *,
    seed: int,
) -> Batch:
    generator, rows, side = torch.Generator().manual_seed(seed), len(ids), config.image_sizes[0]
    return Batch(
        pixel_values=torch.randn(rows, 1, 3 * len(config.image_sizes), side, side, generator=generator),
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        placeholders=placeholders,
        prompt_length=torch.full((rows,), prompt_length),
        parallel=bool(placeholders.any()),
        padded=False,
        state=torch.zeros(rows, config.proprio_dimension),
        labels=labels,
    )
