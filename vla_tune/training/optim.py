"""Which parameters decay, the optimizer, and how the learning rate moves."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit, PagedAdamW32bit
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vla_tune.training.settings import check_whole

_LORA_B = "lora_B"


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of those that require a gradient.

    Raises:
        ValueError: nothing learns.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(
            "No parameter requires a gradient: attach an adapter (adapter=lora_r16) or train everything (adapter=full)."
        )
    return found


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in three groups: weights that decay, the B of LoRA (`role` `lora_B`), which decay too, and the rest.

    Only matrices decay: the `weight` of a linear or convolutional layer, LoRA's among them. Norms, biases, embeddings, position
    embeddings and layer scales, with `weight_decay` 0, do not (Loshchilov & Hutter, arXiv 1711.05101, leave it open; GPT-3 and
    timm do it so).
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed, factors, kept = [], [], []
    for name, parameter in trainable_parameters(model).items():
        is_matrix = name.endswith(".weight") and parameter.ndim >= 2 and id(parameter) not in embeddings
        (factors if ".lora_B." in name else decayed if is_matrix else kept).append(parameter)
    groups = [{"params": decayed}, {"params": factors, "role": _LORA_B}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """AdamW (arXiv 1711.05101, Algorithm 2)."""
    first, second = betas
    return torch.optim.AdamW(list(groups), lr=learning_rate, betas=(first, second), eps=epsilon, weight_decay=weight_decay)


def adamw_lora_plus(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    ratio: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """AdamW in which the B of LoRA learns `ratio` times as fast as the rest (LoRA+, arXiv 2402.12354, §4).

    Raises:
        ValueError: there is no LoRA, or the ratio is not positive.
    """
    if ratio <= 0 or not any(group.get("role") == _LORA_B for group in groups):
        raise ValueError(f"ratio={ratio}: LoRA+ needs a positive ratio, and a LoRA adapter whose B it can be applied to.")
    faster = [group | ({"lr": ratio * learning_rate} if group.get("role") == _LORA_B else {}) for group in groups]
    return adamw(faster, learning_rate=learning_rate, weight_decay=weight_decay, betas=betas, epsilon=epsilon)


def adamw_8bit(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """AdamW with both moments in 8 bits, and a scale for each 256 of them (arXiv 2110.02861); small tensors stay in float32."""
    return AdamW8bit(list(groups), **_arguments(learning_rate, weight_decay, betas, epsilon))


def paged_adamw_32bit(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """AdamW whose moments move to the computer's memory when the GPU's is short (QLoRA, arXiv 2305.14314, §3)."""
    return _unpaged_on_cpu(PagedAdamW32bit(list(groups), **_arguments(learning_rate, weight_decay, betas, epsilon)))


def paged_adamw_8bit(
    groups: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: Sequence[float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """Both: moments in 8 bits, and paged."""
    return _unpaged_on_cpu(PagedAdamW8bit(list(groups), **_arguments(learning_rate, weight_decay, betas, epsilon)))


def _arguments(learning_rate: float, weight_decay: float, betas: Sequence[float], epsilon: float) -> dict[str, Any]:
    first, second = betas
    return {"lr": learning_rate, "betas": (first, second), "eps": epsilon, "weight_decay": weight_decay}


def _unpaged_on_cpu(optimizer: Optimizer8bit) -> Optimizer8bit:
    """Says so where there is nothing to page: parameters on a CPU."""
    if optimizer.param_groups[0]["params"][0].device.type == "cpu":
        print("A paged optimizer pages on a GPU only; on this CPU it runs unpaged.", file=sys.stderr)
        optimizer.is_paged = False
    return optimizer


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup_steps: int, floor: float) -> LambdaLR:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `floor` times the learning rate at the last step.

    With steps=10, warmup_steps=2, floor=0 the factors are 0.5 1 | 1 0.96 0.85 0.69 0.5 0.31 0.15 0.04: the first step already
    learns, and the rate reaches the floor when the last step is done. (Of transformers' schedules one begins at 0, and the other
    leaves the full rate a step earlier.)
    """
    check_whole("schedule.warmup_steps", warmup_steps, least=0)
    if warmup_steps >= steps:
        raise ValueError(f"schedule.warmup_steps={warmup_steps} must be fewer than training.steps={steps}.")
    if not isinstance(floor, int | float) or not 0.0 <= floor <= 1.0:
        raise ValueError(f"schedule.floor={floor!r} is a share of the learning rate: it must lie in [0, 1].")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / (steps - warmup_steps))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def step_decay(optimizer: Optimizer, *, steps: int, decay_at: int, factor: float, warmup_steps: int) -> LambdaLR:
    """Linear warm-up over `warmup_steps`, the full rate, and `factor` of it from `decay_at` on (OpenVLA-OFT, arXiv 2502.19645).

    With steps=6, decay_at=4, factor=0.1, warmup_steps=2 the factors are 0.5 1 | 1 1 | 0.1 0.1.
    """
    check_whole("schedule.warmup_steps", warmup_steps, least=0)
    check_whole("schedule.decay_at", decay_at, least=0)
    if decay_at >= steps:
        raise ValueError(f"schedule.decay_at={decay_at} must be fewer than training.steps={steps}, else nothing decays.")
    if warmup_steps > decay_at:
        raise ValueError(f"schedule.warmup_steps={warmup_steps} must end before schedule.decay_at={decay_at}.")
    if not isinstance(factor, int | float) or not 0.0 <= factor <= 1.0:
        raise ValueError(f"schedule.factor={factor!r} is a share of the learning rate: it must lie in [0, 1].")
    return LambdaLR(
        optimizer, lambda step: (step + 1) / warmup_steps if step < warmup_steps else 1.0 if step < decay_at else factor
    )


def constant(optimizer: Optimizer, *, steps: int) -> LambdaLR:
    """The same learning rate at every step; `steps` is there because every schedule takes it."""
    del steps
    return LambdaLR(optimizer, lambda _: 1.0)
