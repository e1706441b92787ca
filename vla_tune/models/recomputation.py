"""Activations of a language model's blocks that are computed again in the backward pass instead of kept."""

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_activations(model: nn.Module) -> int:
    """Keep only the inputs of the blocks of transformers' models while training, in place; returns how many blocks there are.

    Gradient checkpointing (arXiv 1604.06174, §4): the same gradients, a third more computation, and the memory of one block. timm's
    vision towers, which come first and are frozen as a rule, keep theirs.

    Raises:
        ValueError: the model has no such block.
    """
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise ValueError(f"checkpointing=true: {type(model).__name__} has no block that can be run again; leave it out.")
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
            module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return len(blocks)
