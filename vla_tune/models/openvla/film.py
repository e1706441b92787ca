"""FiLM: the instruction scales and shifts what the vision towers see (arXiv 1709.07871; OpenVLA-OFT, arXiv 2502.19645, §4)."""

from collections.abc import Iterable
from typing import Any, cast

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Modulation(nn.Linear):
    """A linear map that starts at zero, so that a model to which FiLM is added is the same function at first."""

    def reset_parameters(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def add_film(tower: VisionTransformer, language_width: int) -> None:
    """Give every block of `tower` its `scale` and `shift`, in place."""
    for block in _blocks(tower):
        block.scale = Modulation(language_width, tower.embed_dim)
        block.shift = Modulation(language_width, tower.embed_dim)


def filmed_features(
    tower: VisionTransformer, pixels: Float[Tensor, "B 3 H W"], language: Float[Tensor, "B L"]
) -> Float[Tensor, "B P D"]:
    """Patch features of the second-to-last block, with x (1 + scale(l)) + shift(l) between attention and MLP of each block.

    Args:
        tower: one to whose blocks `add_film` gave the maps.
        pixels: what it reads.
        language: l, the mean of the embeddings of the instruction; L is the language model's width.
    """
    tokens = tower.norm_pre(tower.patch_drop(tower._pos_embed(tower.patch_embed(pixels))))
    for block in list(_blocks(tower))[:-1]:
        tokens = _filmed(block, tokens, language)
    return tokens[:, tower.num_prefix_tokens :]


def _filmed(block: Any, tokens: Float[Tensor, "B N D"], language: Float[Tensor, "B L"]) -> Float[Tensor, "B N D"]:
    condition = language.to(block.scale.weight.dtype)
    scale, shift = (layer(condition).to(tokens.dtype)[:, None] for layer in (block.scale, block.shift))
    tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
    tokens = tokens * (1 + scale) + shift
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


def _blocks(tower: VisionTransformer) -> Iterable[Any]:
    return cast(nn.Sequential, tower.blocks).children()
