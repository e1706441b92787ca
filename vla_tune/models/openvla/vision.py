"""timm vision towers and the projector: patch features of the second-to-last block, side by side, in the language model's width."""

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.layers.layer_scale import LayerScale as TimmLayerScale
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.film import add_film, filmed_features


class LayerScale(nn.Module):
    """x * s, one factor for each channel (CaiT, arXiv 2103.17239, §2.2); checkpoints call it `scale_factor`, timm `gamma`."""

    def __init__(self, scale_factor: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(scale_factor)

    def forward(self, inputs: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Scaled channels."""
        return inputs * self.scale_factor


class VisionBackbone(nn.Module):
    """One or two vision transformers; the names `featurizer` and `fused_featurizer` are the checkpoint's.

    Features are the output of the second-to-last block without the final norm (Prismatic VLMs, arXiv 2402.07865, §3);
    class and register tokens are dropped. Two towers are concatenated on the channel axis.
    """

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        if len(config.timm_model_ids) not in (1, 2):
            raise ValueError(f"timm_model_ids={config.timm_model_ids}: OpenVLA has one vision tower or two.")
        towers = [_tower(config, index) for index in range(len(config.timm_model_ids))]
        self.film = config.film_dimension > 0
        for tower in towers if self.film else ():
            add_film(tower, config.film_dimension)
        self.featurizer = towers[0]
        if len(towers) == 2:
            self.fused_featurizer = towers[1]

    @property
    def towers(self) -> list[VisionTransformer]:
        """The vision transformers, in the order of the pixel channels."""
        names = [name for name in ("featurizer", "fused_featurizer") if hasattr(self, name)]
        return [cast(VisionTransformer, getattr(self, name)) for name in names]

    @property
    def width(self) -> int:
        """Channels of a patch feature."""
        return sum(tower.embed_dim for tower in self.towers)

    def forward(self, pixels: Float[Tensor, "B C H W"], language: Float[Tensor, "B L"] | None = None) -> Float[Tensor, "B P D"]:
        """Features of P patches; C is three channels for each tower. `language` is for FiLM, None without."""
        assert (language is None) == (not self.film), "language, and nobody listens, or the other way round"
        read = _features if language is None else partial(filmed_features, language=language)
        channels = pixels.split(3, dim=1)
        return torch.cat([read(tower, three) for tower, three in zip(self.towers, channels, strict=True)], dim=-1)


class SingleProjector(nn.Module):
    """fc1, GELU, fc2: the projector of one vision tower (Prismatic's `gelu-mlp`)."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch D"]:
        """Features in the language model's width."""
        return self.fc2(F.gelu(self.fc1(features)))


class FusedProjector(nn.Module):
    """fc1, GELU, fc2, GELU, fc3: the projector of two fused towers (Prismatic's `fused-gelu-mlp`)."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch D"]:
        """Features in the language model's width."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))


class ProprioProjector(SingleProjector):
    """The robot's state as one token (OpenVLA-OFT, arXiv 2502.19645, §4): fc1, GELU, fc2."""


def _tower(config: OpenVLAConfig, index: int) -> VisionTransformer:
    """An architecture of timm under the checkpoint's names."""
    _check_tower(config.timm_model_ids[index], config.timm_kwargs[index])
    tower = timm.create_model(
        config.timm_model_ids[index],
        pretrained=False,
        num_classes=0,
        img_size=config.image_sizes[index],
        act_layer=config.timm_override_act_layers[index],
        **config.timm_kwargs[index],
    )
    scales = [(name, module) for name, module in tower.named_modules() if isinstance(module, TimmLayerScale)]
    for name, module in scales:
        tower.set_submodule(name, LayerScale(module.gamma.detach()))
    return cast(VisionTransformer, tower)


def _check_tower(name: Any, options: Any) -> None:
    """Only an architecture that timm has, with plain settings of it: timm would also fetch and read what other names say."""
    known = inspect.signature(VisionTransformer).parameters
    plain = isinstance(options, Mapping) and all(isinstance(value, str | int | float | None) for value in options.values())
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", name)):
        raise ValueError(f"timm_model_ids holds {str(name)[:80]!r}: a vision tower is named as timm's list has it.")
    if not plain or not set(options) <= set(known):
        raise ValueError(f"timm_kwargs={str(options)[:200]}: a vision tower takes plain settings of timm's VisionTransformer only.")


def _features(tower: VisionTransformer, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
    before_last = len(cast(nn.Sequential, tower.blocks)) - 2
    features = tower.forward_intermediates(
        pixels, indices=[before_last], norm=False, stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    return cast(list[Tensor], features)[0]
