"""`preprocessor_config.json`, Prismatic's description of its image processor <-> `ImageRule`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from vla_tune.models.files import read_record
from vla_tune.models.openvla.pictures import STRATEGIES, check_rule, letterbox_fill
from vla_tune.models.openvla.record import ImageRule

PROCESSOR_FILE = "preprocessor_config.json"
_BICUBIC = 3
"""PIL's number for it."""

type _Colours = tuple[tuple[float, float, float], ...]


def image_rule(folder: Path) -> ImageRule:
    """The rule of a published folder.

    `tvf_normalize_params`, where given, win over `means` and `stds`, as in the original: the published files were saved with
    numbers rounded to bfloat16 there.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the strategy is unknown, the towers read pictures of different sizes, the interpolation is not bicubic, or two
            fields contradict each other.
    """
    path = folder / PROCESSOR_FILE
    record = read_record(path, "how pictures are prepared: download it from where the weights came, or copy that of the base model")
    means, deviations = _normalisation(record, path)
    height, width = _size(record, path)
    strategy = record.get("image_resize_strategy", "letterbox")
    if strategy not in STRATEGIES:
        raise ValueError(f"{path} has image_resize_strategy={strategy!r}: it must be one of {', '.join(STRATEGIES)}.")
    rule = ImageRule(height=height, width=width, resize=strategy, center_crop_area=1.0, means=means, deviations=deviations)
    check_rule(rule)
    _check_derived(record, rule, path)
    return rule


def processor_record(rule: ImageRule) -> dict[str, Any]:
    """What the original's processor reads to do the same; a centre crop by area is no part of it and stays in the contract."""
    towers = range(len(rule.means))
    naive = rule.resize == "resize-naive"
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": rule.resize,
        "input_sizes": [[3, rule.height, rule.width] for _ in towers],
        "interpolations": ["bicubic" for _ in towers],
        "means": [[_short(value) for value in mean] for mean in rule.means],
        "processor_class": "PrismaticProcessor",
        "stds": [[_short(value) for value in deviation] for deviation in rule.deviations],
        "tvf_crop_params": [{"output_size": [rule.height, rule.width]} for _ in towers],
        "tvf_do_letterbox": rule.resize == "letterbox",
        "tvf_letterbox_fill": list(letterbox_fill(rule)) if rule.resize == "letterbox" else None,
        "tvf_normalize_params": [
            {"inplace": False, "mean": [_single(value) for value in mean], "std": [_single(value) for value in deviation]}
            for mean, deviation in zip(rule.means, rule.deviations, strict=True)
        ],
        "tvf_resize_params": [
            {
                "antialias": True,
                "interpolation": _BICUBIC,
                "max_size": None,
                "size": [rule.height, rule.width] if naive else rule.height,
            }
            for _ in towers
        ],
        "use_fused_vision_backbone": len(rule.means) == 2,
    }


def _normalisation(record: Mapping[str, Any], path: Path) -> tuple[_Colours, _Colours]:
    given = record.get("tvf_normalize_params") or [
        {"mean": mean, "std": deviation} for mean, deviation in zip(record.get("means", []), record.get("stds", []), strict=True)
    ]
    means = tuple(tuple(float(value) for value in tower["mean"]) for tower in given)
    deviations = tuple(tuple(float(value) for value in tower["std"]) for tower in given)
    if not means or any(len(colour) != 3 for colour in (*means, *deviations)):
        raise ValueError(f"{path} has no mean and deviation of three colours for each tower: take the file of the base model.")
    return cast(_Colours, means), cast(_Colours, deviations)


def _size(record: Mapping[str, Any], path: Path) -> tuple[int, int]:
    sizes = {tuple(size[-2:]) for size in record.get("input_sizes", [])}
    if len(sizes) != 1:
        raise ValueError(
            f"{path} has input_sizes={record.get('input_sizes')}: towers that read pictures of different sizes are not supported; "
            "both must read the same."
        )
    return sizes.pop()


def _check_derived(record: Mapping[str, Any], rule: ImageRule, path: Path) -> None:
    """The fields that the original derives, and then overrides by those in the file, must say what we derive."""
    expected = processor_record(rule)
    for key in ("interpolations", "tvf_crop_params", "tvf_do_letterbox", "tvf_letterbox_fill", "tvf_resize_params"):
        if key in record and record[key] != expected[key]:
            raise ValueError(
                f"{path} has {key}={record[key]}, which is not what {rule.resize} at {rule.height} x {rule.width} means "
                f"({expected[key]}). Take the file of the base model."
            )


def _single(value: float) -> float:
    return float(np.float32(value))


def _short(value: float) -> float:
    """The shortest decimal of the same float32."""
    return float(str(np.float32(value)))
