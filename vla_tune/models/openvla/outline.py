"""The OpenVLA architecture without its weights, for planning."""

from typing import cast

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vla_tune.models.base import Outline
from vla_tune.models.nf4 import NF4
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.load import OPENVLA_NF4, empty_model
from vla_tune.models.openvla.model import OpenVLA


def outline(config: OpenVLAConfig, *, nf4: NF4 = OPENVLA_NF4, untrained: tuple[str, ...] = ()) -> Outline:
    """What a plan must know of the model that `config` describes; `untrained` as in `OpenVLA`."""
    model = empty_model(config)
    model.untrained = untrained
    towers = _towers(model)
    patches = next(iter(towers.values())).patch_embed.num_patches
    inside = {name: tower.patch_embed.num_patches + tower.num_prefix_tokens for name, tower in towers.items()}
    return Outline(
        model=model,
        image_tokens=patches,
        state_tokens=1 if config.proprio_dimension else 0,
        tokens=_single(model) | inside | {"projector": patches},
        head="language_model.lm_head",
        nf4_targets=nf4.targets,
        unreached=[f"{name}.{part}" for name, tower in towers.items() for part in _unreached(tower)],
    )


def _single(model: OpenVLA) -> dict[str, int]:
    """What sees one token: FiLM one for each image, the others one for each state or action."""
    film = [f"{name}.{part}" for name, module in model.named_modules() if hasattr(module, "shift") for part in ("scale", "shift")]
    return dict.fromkeys([*film, *(name for name in ("proprio_projector", "action_head") if hasattr(model, name))], 1)


def _towers(model: OpenVLA) -> dict[str, VisionTransformer]:
    names = ("featurizer", "fused_featurizer")
    return {
        f"vision_backbone.{name}": cast(VisionTransformer, getattr(model.vision_backbone, name))
        for name in names
        if hasattr(model.vision_backbone, name)
    }


def _unreached(tower: VisionTransformer) -> list[str]:
    """Features leave before the last block (`vision.VisionBackbone`)."""
    return [f"blocks.{len(cast(nn.Sequential, tower.blocks)) - 1}", "norm", "fc_norm", "attn_pool", "head"]
