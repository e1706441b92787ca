"""What a published OpenVLA checkpoint says about itself, in our terms: it has no contract."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vla_tune.data.pipeline import make_contract
from vla_tune.models.openvla.config import OpenVLAConfig
from vla_tune.models.openvla.load import load_config
from vla_tune.models.openvla.processor_file import image_rule
from vla_tune.models.openvla.record import Given, ImageRule
from vla_tune.models.openvla.statistics_file import published_statistics, unscaled
from vla_tune.schema import ColumnStatistics, Contract, Embodiment, Group, Normalization, Statistics
from vla_tune.tokens import BinTokenizer, uniform_edges

PURE_PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
"""Of the models on a plain Llama-2 (openvla-spec)."""
VICUNA_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: What action should the robot take to {instruction}? ASSISTANT:"
)
"""Of the models on Vicuna v1.5 (openvla-v01)."""
_PROMPTS = {
    "llama2-7b-pure": PURE_PROMPT,
    "llama2-13b-pure": PURE_PROMPT,
    "vicuna-v15-7b": VICUNA_PROMPT,
    "vicuna-v15-13b": VICUNA_PROMPT,
}

_SCALED: dict[tuple[int, int], Normalization] = {(1, 7): "quantile", (8, 7): "quantile", (5, 7): "quantile", (25, 14): "min_max"}
"""By chunk and action dimensions, which are all that tells OpenVLA and OpenVLA-OFT's LIBERO, Bridge and ALOHA models apart: no file
says how they scale (OFT's `prismatic/vla/constants.py`, `ACTION_PROPRIO_NORMALIZATION_TYPE`)."""


def _as_published(rule: ImageRule) -> ImageRule:
    return rule


def _resized(rule: ImageRule) -> ImageRule:
    return replace(rule, input_resize="lanczos3")


def _fine_tuned(rule: ImageRule) -> ImageRule:
    """Training cut out nine tenths of the area at random places; acting takes the middle."""
    return replace(_resized(rule), input_jpeg=95, center_crop_area=0.9, crop="tf_bilinear")


PICTURES: Mapping[str, Callable[[ImageRule], ImageRule]] = {
    "processor": _as_published,
    "resized": _resized,
    "fine_tuned": _fine_tuned,
}
"""What comes before the processor: nothing, as in the original's `deploy.py`; the resize of its training data, as in its evaluation
on Bridge; or JPEG, that resize and a centre crop, as on LIBERO, of what was fine-tuned with its augmentation (5 points there)."""


def published_inputs(folder: Path) -> Given:
    """Images, prompt and vocabulary of a published checkpoint.

    Raises:
        FileNotFoundError: `config.json` or `preprocessor_config.json` is missing.
        ValueError: the language model is none whose prompt is known, or the image processor does not fit the model.
    """
    config, image = load_config(folder), image_rule(folder)
    sizes = [[image.height, image.width] for _ in image.means]
    if [[size, size] for size in config.image_sizes] != sizes:
        raise ValueError(
            f"{folder}: the model reads pictures of {config.image_sizes}, its image processor makes {sizes}: take both from "
            "the same checkpoint."
        )
    return Given(image=image, prompt=prompt_template(config, folder), vocabulary_size=config.vocabulary_size)


def prompt_template(config: OpenVLAConfig, folder: Path) -> str:
    """The template that belongs to the language model.

    Raises:
        ValueError: `llm_backbone_id` is missing or unknown.
    """
    name = getattr(config, "llm_backbone_id", None)
    if name not in _PROMPTS:
        raise ValueError(
            f"{folder / 'config.json'} has llm_backbone_id={name!r}, whose prompt is not known; known are {', '.join(_PROMPTS)}. "
            "Fine-tune from one of these, or write the folder with a contract.json, which says the prompt."
        )
    return _PROMPTS[name]


def published_contract(
    folder: Path,
    *,
    embodiment: Embodiment,
    unnorm_key: str,
    precision: Literal["bf16", "fp32"] = "bf16",
    horizon: int = 1,
    decoding: Literal["autoregressive", "parallel", "regression"] = "autoregressive",
    normalization: Normalization | None = None,
    pictures: str = "processor",
) -> Contract:
    """A contract under which a published policy can be run.

    OpenVLA's predict one action at a time, its codes one after the other; OpenVLA-OFT's a chunk, in parallel or by regression.
    Where the model reads no state, the embodiment's state passes unscaled.

    Args:
        folder: The checkpoint.
        embodiment: What the checkpoint does not say: cameras (in OFT's order), units and frames.
        unnorm_key: Whose statistics the actions are scaled by.
        precision: Of the forward pass.
        horizon: Actions in a chunk, which no file says: 8 in OFT's LIBERO, 25 in its ALOHA, 5 in its Bridge models.
        decoding: How they are predicted; no file says that either, but an action head is there to regress.
        normalization: How its authors scaled what the mask names; None where OpenVLA's or OFT's own chunk and robot tell it.
        pictures: One of `PICTURES`.

    Raises:
        ValueError: the embodiment does not fit the statistics, the decoding the files, or nothing tells how actions are scaled.
    """
    base, config = published_inputs(folder), load_config(folder)
    if (decoding == "regression") != (config.action_head_dimension > 0):
        has = "an action head" if config.action_head_dimension else "no action head"
        raise ValueError(f"decoding={decoding!r}, and {folder} has {has}: regression needs one, and codes need none.")
    kind = normalization or scaling(horizon, embodiment.action_dimension, folder)
    statistics = published_statistics(folder, unnorm_key, normalization=kind)
    _check_mask("action", embodiment.action, statistics.action, unnorm_key)
    if not config.proprio_dimension:
        embodiment = replace(embodiment, state=tuple(replace(group, normalization="none") for group in embodiment.state))
    else:
        _check_mask("state", embodiment.state, statistics.state, unnorm_key)
        _check_state(embodiment, config, folder)
    edges, seen = uniform_edges(config.n_action_bins), replace(base, image=PICTURES[pictures](base.image))
    return make_contract(
        embodiment,
        statistics=Statistics(
            dataset=statistics.dataset,
            action=statistics.action,
            state=statistics.state if config.proprio_dimension else unscaled(embodiment.state_dimension),
            num_transitions=statistics.num_transitions,
            num_trajectories=statistics.num_trajectories,
        ),
        horizon=horizon,
        execute_steps=horizon,
        precision=precision,
        model=seen.part(BinTokenizer(edges, base.vocabulary_size), decoding=decoding),
    )


def scaling(horizon: int, dimension: int, folder: Path) -> Normalization:
    """How actions of a published policy are scaled, by the shape of its chunks.

    Raises:
        ValueError: it is none of a known policy.
    """
    if (horizon, dimension) not in _SCALED:
        known = ", ".join(f"{steps} x {actions} ({kind})" for (steps, actions), kind in _SCALED.items())
        raise ValueError(
            f"{folder} predicts {horizon} x {dimension} actions, and no file says how they are scaled; known are {known}: say "
            "normalization='quantile' or 'min_max', as its training did."
        )
    return _SCALED[horizon, dimension]


def _check_state(embodiment: Embodiment, config: OpenVLAConfig, folder: Path) -> None:
    if embodiment.state_dimension != config.proprio_dimension:
        raise ValueError(
            f"{folder} reads a state of {config.proprio_dimension} dimensions, the embodiment {embodiment.name!r} declares "
            f"{embodiment.state_dimension}: write the state groups of the robot that it was trained on."
        )


def _check_mask(name: str, groups: tuple[Group, ...], column: ColumnStatistics, key: str) -> None:
    declared = [group.normalization for group in groups for _ in range(group.dimension)]
    if declared != list(column.normalization):
        raise ValueError(
            f"the statistics of {key!r} scale the {name} dimensions by {list(column.normalization)}, the embodiment declares "
            f"{declared}: correct `normalization` and the dimensions of its {name} groups, or choose another unnorm_key."
        )
