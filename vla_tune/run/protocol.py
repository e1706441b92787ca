"""The name of the rules by which an environment is played, and what was changed of them."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from vla_tune.evaluation.kept import flat
from vla_tune.schema import content_hash

_LONGEST = 40
"""Letters of a value that is told."""
_TYPE = "._target_"


def protocol_of(cfg: DictConfig) -> str:
    """The protocol that an environment's option names, else its suite: the name by which numbers are comparable.

    A name stands for the values of its option: what a command, a recipe or a sweep changed of these follows in brackets, as in
    `libero (horizon=150)`, unless it names a protocol of its own too.
    """
    name, option = str(cfg.env.get("protocol") or cfg.env.suite), _option()
    if option is not None and option.get("protocol") != cfg.env.get("protocol"):
        return name
    changed = [] if option is None else [*_other_suite(cfg, option), *_other_make(cfg, option)]
    if cfg.evaluation.get("max_steps") is not None:
        changed.append(f"max_steps={cfg.evaluation.max_steps}")
    return f"{name} ({', '.join(changed)})" if changed else name


def _option() -> DictConfig | None:
    """The environment's option as its file has it; None outside a job of Hydra's, where nobody knows which it was."""
    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return None
    job = HydraConfig.get()
    name = job.runtime.choices.get("env")
    places = tuple(word for word in job.overrides.hydra if word.startswith("hydra.searchpath="))
    return None if name is None else _composed(name, places, str(job.runtime.config_sources))


@cache
def _composed(name: str, places: tuple[str, ...], sources: str) -> DictConfig | None:
    """The file of a name, from folders which `sources` tell apart."""
    return hydra.compose("doctor", overrides=[*places, f"+env={name}"]).get("env")


def _other_suite(cfg: DictConfig, option: DictConfig) -> list[str]:
    named = not OmegaConf.is_missing(option, "suite")
    return [f"suite={cfg.env.suite}"] if named and option.get("protocol") and option.suite != cfg.env.suite else []


def _other_make(cfg: DictConfig, option: DictConfig) -> list[str]:
    """`key=value` of what is made otherwise than the option says it, of the suite that is asked for."""
    before = deepcopy(cfg)
    with open_dict(before):
        before.env.make = option.make
    old, new = _values(before), _values(cfg)
    other = [name for name, value in new.items() if name not in old or old[name] != value]
    gone = [name for name in old if name not in new and not any(name.startswith(f"{above}.") for above in other)]
    return [f"{name.removesuffix(_TYPE)}={_short(new[name])}" for name in other] + [f"~{name}" for name in gone]


def _values(cfg: DictConfig) -> Mapping[str, Any]:
    make = OmegaConf.to_container(cfg.env.make, resolve=True)
    assert isinstance(make, dict)
    return flat({str(name): value for name, value in make.items()})


def _short(value: Any) -> str:
    return text if len(text := str(value)) <= _LONGEST else content_hash(value)[:8]
