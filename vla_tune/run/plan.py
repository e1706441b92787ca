"""A configuration -> its plan, and the overrides that make it fit."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vla_tune.models.base import Outlined
from vla_tune.models.heads import decoding_of
from vla_tune.plan import Architecture, Device, Load, Plan, architecture, make_plan, record_of, state_bytes
from vla_tune.plan.advice import Change, best, slowdown, smaller, smaller_batches
from vla_tune.plan.states import StateBytes
from vla_tune.plan.table import print_plan
from vla_tune.run.folder import register_resolvers
from vla_tune.run.recipes import check_complete
from vla_tune.run.timing import timed

register_resolvers()

type Compose = Callable[[list[str]], DictConfig]


class NoOutlineError(ValueError):
    """A checkpoint does not tell its architecture without its weights."""


def plan_run(cfg: DictConfig, *, overrides: Sequence[str], compose: Compose) -> Plan:
    """Print what `cfg` will take, and write it to `cfg.json`; `overrides` made `cfg`, and `compose` makes others like it."""
    device = instantiate(cfg.gpu, _convert_="all")
    try:
        plan = planned(cfg, device=device)
    except NoOutlineError as error:
        raise ValueError(f"{error} Give it an outline(), which returns Outline(model=, loss=) of vla_tune.models.base.") from None
    advice = advised(cfg, plan, overrides=overrides, compose=compose)
    print_plan(plan, advice, title=f"{cfg.model.folder} with {' '.join(overrides) or 'the defaults'}")
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(record(plan, advice), indent=1) + "\n")
    return plan


def advised(cfg: DictConfig, plan: Plan, *, overrides: Sequence[str], compose: Compose) -> list[Change]:
    """What makes the run fit, the fastest first; nothing where it does."""
    if plan.fits:
        return []
    found = best(list(changes(cfg, overrides=overrides, compose=compose, device=plan.device)))
    return found if len(found) >= 3 else [*found, *larger_devices(cfg, plan, compose=compose)]


def record(plan: Plan, advice: Sequence[Change]) -> dict[str, Any]:
    """What is written."""
    changes = [
        {
            "overrides": list(change.overrides),
            "peak": change.plan.bytes_.peak,
            "fits": change.plan.fits,
            "slowdown": slowdown(change, plan),
        }
        for change in advice
    ]
    return record_of(plan) | {"advice": changes}


def planned(cfg: DictConfig, *, device: Device) -> Plan:
    """The plan of a configuration on a device, or on `cfg.gpus` of them where that is said.

    Raises:
        ValueError: it does not say for how many steps or how large a batch.
    """
    check_complete(cfg, under="training.")
    model, states = described(cfg)
    return make_plan(
        model,
        states,
        load=load_of(cfg, model),
        device=device,
        precision=cfg.precision,
        steps=cfg.training.steps,
        devices=cfg.get("gpus", 1),
        sharding=cfg.get("sharding", "ddp"),
        decoding_passes=_codes(cfg) if _decoding(cfg) == "autoregressive" else 1,
    )


def described(cfg: DictConfig) -> tuple[Architecture, StateBytes]:
    """The model with its adapter, and the states of its optimizer; made once for equal choices."""
    nodes = (cfg.model, cfg.adapter, cfg.optimizer, cfg.average)
    return _described(*(OmegaConf.to_yaml(node, resolve=True) for node in nodes))


def load_of(cfg: DictConfig, model: Architecture) -> Load:
    """What goes through the model at once: the robot's cameras and actions come with `data`."""
    cameras, codes = len(cfg.data.embodiment.cameras), _codes(cfg)
    context = cameras * model.outline.image_tokens + model.outline.state_tokens
    labels = {"autoregressive": codes + 1, "parallel": codes}.get(_decoding(cfg), 0)
    return Load(
        batch_size=cfg.training.batch_size,
        length=context + cfg.plan.prompt_tokens + codes + 1,
        labels=labels,
        cameras=cameras,
        actions=cfg.horizon,
        gradient_accumulation=cfg.training.gradient_accumulation,
        checkpointing=cfg.checkpointing,
        rows=OmegaConf.select(cfg, "evaluation.rows", default=None) or 0,
        one_by_one=_decoding(cfg) == "autoregressive",
        merged_bytes=2 * model.base_parameters if timed(model.base_parameters) else 0,
    )


def changes(cfg: DictConfig, *, overrides: Sequence[str], compose: Compose, device: Device) -> Iterator[Change]:
    """Those that fit, of each change of `cfg.plan.changes`, every two of them, and smaller batches, alone or with such changes."""

    @cache
    def chosen_groups(groups: tuple[str, ...]) -> DictConfig:
        return compose([*_without(overrides, groups), *groups])

    for count in range(3):
        for chosen in combinations(cfg.plan.changes, count):
            if len({_key(change) for change in chosen}) < count:
                continue
            groups = tuple(change for change in chosen if OmegaConf.is_dict(OmegaConf.select(cfg, _key(change))))
            values = [change for change in chosen if change not in groups]
            try:
                changed = OmegaConf.merge(chosen_groups(groups) if groups else cfg, OmegaConf.from_dotlist(values))
                yield from _with_batches(cast(DictConfig, changed), chosen, device)
            except (ValueError, HydraException):  # an adapter refuses a base: then it is no change to offer
                continue


def larger_devices(cfg: DictConfig, plan: Plan, *, compose: Compose) -> Iterator[Change]:
    """The smallest GPU that is known here and holds the run as it is."""
    try:
        known = {name: instantiate(node) for name, node in compose(["gpu=auto"]).gpu.known.items()}
    except HydraException:  # outside a job, nothing is composed
        return
    for name, device in sorted(known.items(), key=lambda item: item[1].memory_gib):
        if plan.bytes_.peak <= device.usable_bytes:
            yield Change((f"gpu={name}",), planned(cfg, device=device))
            return


def _with_batches(cfg: DictConfig, chosen: tuple[str, ...], device: Device) -> Iterator[Change]:
    """The largest batch that fits; smaller ones are accumulated, so that a step learns from as many samples."""
    whole = planned(cfg, device=device)
    for size in smaller_batches(cfg.training.batch_size):
        plan = smaller(whole, size, states=described(cfg)[1], precision=cfg.precision)
        if plan.fits:
            batches = (f"training.batch_size={size}", f"training.gradient_accumulation={plan.load.gradient_accumulation}")
            yield Change((*chosen, *(batches if size < cfg.training.batch_size else ())), plan)
            return


def _without(overrides: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Of the user's overrides, those that `chosen` does not replace."""
    keys = {_key(change) for change in chosen}
    return [override for override in overrides if _key(override) not in keys]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


@cache
def _described(model: str, adapter: str, optimizer: str, average: str) -> tuple[Architecture, StateBytes]:
    described = _attached(model, adapter)
    made, kept = (instantiate(OmegaConf.create(node)) for node in (optimizer, average))
    return described, state_bytes(described.outline.model, described.reached, made, kept)


@cache
def _attached(model: str, adapter: str) -> Architecture:
    checkpoint = instantiate(OmegaConf.create(model), _convert_="all")
    if not isinstance(checkpoint, Outlined):
        name = type(checkpoint).__name__
        raise NoOutlineError(f"{name} cannot be planned: it does not tell its architecture without its weights.")
    return architecture(checkpoint.outline(), instantiate(OmegaConf.create(adapter), _convert_="all"))


def _codes(cfg: DictConfig) -> int:
    if cfg.plan.codes is not None:
        return int(cfg.plan.codes)
    return cfg.horizon * sum(group.dimension for group in cfg.data.embodiment.action)


def _decoding(cfg: DictConfig) -> str:
    """Of the run's head; a model without one says no codes."""
    return "none" if not cfg.get("head") else decoding_of(instantiate(cfg.head))
