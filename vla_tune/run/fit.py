"""Does a run fit? It is planned before anything large is read, and what does not fit the device is refused with what would."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vla_tune.check.machine import NO_GPU, unusable_gpu
from vla_tune.models.files import counted_parameters
from vla_tune.models.four_bits import FOUR_BITS
from vla_tune.models.hub import records_folder
from vla_tune.models.precision import weight_dtype
from vla_tune.plan import Device, Plan, device_here
from vla_tune.plan.advice import Change
from vla_tune.plan.table import advice_text, needed, size_text, verdict
from vla_tune.run.objects import build, device_of
from vla_tune.run.plan import NoOutlineError, advised, planned

LARGE = 1_000_000_000
"""Parameters from which a CPU is only taken where it was asked for."""

type Fit = Callable[[str], None]


def refuse(said: str) -> None:
    """The run ends before it began.

    Raises:
        ValueError: always; it says what would fit.
    """
    raise ValueError(f"{said} fit=ignore begins all the same.")


def ignore(said: str) -> None:
    """It is told, and the run begins."""
    print(f"fit=ignore: {said}", file=sys.stderr)


def tell(said: str) -> None:
    """The run begins: whoever brings a model that tells nothing about itself knows best."""
    print(said, file=sys.stderr)


def check_fit(cfg: DictConfig) -> None:
    """Plan the run that `cfg` describes; nothing of its weights is read.

    Where no plan can be made, the parameters are counted in the headers of the weights' files. A checkpoint that can neither tell
    its architecture nor be counted is passed over, in a line.

    Raises:
        ValueError: it does not fit the device, or a large model would be trained on a CPU that was not asked for.
    """
    cfg, device, fit = _with_records(cfg), planned_device(cfg), build(cfg.fit)
    try:
        plan = planned(cfg, device=device)
    except Exception as error:  # whatever is unknown about the model: its files are counted instead
        unknown = tell if isinstance(error, NoOutlineError) else fit
        _without_plan(cfg, device, fit, unknown=unknown, reason=" ".join(str(error).split()) or type(error).__name__)
        return
    memory = partial(_check_memory, cfg, plan, fit)
    cpu = partial(check_cpu, cfg, plan.model.base_parameters, besides=_besides(plan))
    for check in (cpu, memory) if cfg.get("gpu") is None else (memory, cpu):  # a card that was named is asked about first
        check()


def planned_device(cfg: DictConfig) -> Device:
    """The card that `gpu=` names, or what the run would find here."""
    return build(cfg.gpu) if cfg.get("gpu") is not None else device_here({}, device=device_of(cfg))


def check_cpu(cfg: DictConfig, parameters: int, *, besides: str = "") -> None:
    """A large model is not trained on a CPU by accident.

    Raises:
        ValueError: it would be.
    """
    if parameters < LARGE or cfg.device != "auto" or device_of(cfg) != "cpu":
        return
    raise ValueError(
        f"{cfg.model.folder} has {parameters / 1e9:.1f} billion parameters and would be trained on the CPU. "
        f"{unusable_gpu() or NO_GPU} If a CPU is meant, say device=cpu.{besides}"
    )


def _check_memory(cfg: DictConfig, plan: Plan, fit: Fit) -> None:
    if not plan.fits:
        with _overrides() as (overrides, compose):
            fit(refusal(cfg, plan, advised(cfg, plan, overrides=overrides, compose=compose)))


def _besides(plan: Plan) -> str:
    return "" if plan.fits else f" (It would not fit either: {needed(plan)}.)"


def refusal(cfg: DictConfig, plan: Plan, advice: list[Change]) -> str:
    """What is said of a run that does not fit, and what would."""
    return f"{cfg.model.folder} cannot be trained like this. {verdict(plan)} {advice_text(plan, advice)}"


def _without_plan(cfg: DictConfig, device: Device, fit: Fit, *, unknown: Fit, reason: str) -> None:
    """What the headers of its weights say is all that is known; where they say nothing, `unknown` is told."""
    folder = cfg.model.get("folder")
    try:
        parameters = counted_parameters(Path(str(folder)))
    except (OSError, ValueError):
        unknown(f"{folder} can neither be planned ({reason}) nor are there weights to count, so nobody knows whether it fits.")
        return
    check_cpu(cfg, parameters)
    base = build(cfg.adapter).base
    least = parameters // 2 if base in FOUR_BITS else parameters * weight_dtype(base).itemsize
    told = f"its weights alone take {size_text(least)} of the {size_text(device.usable_bytes)} of {device.name}"
    if least > device.usable_bytes:
        fit(f"{folder} does not fit: {told}.")
    else:
        print(f"No plan of this run was made ({reason}): {told}.", file=sys.stderr)


def _with_records(cfg: DictConfig) -> DictConfig:
    """The same, with a model of the hub described by its small files, which are downloaded where nothing else describes it."""
    folder = cfg.model.get("folder")
    if folder is None or Path(folder).is_dir() or cfg.model.get("architecture") is not None:
        return cfg
    changed = OmegaConf.merge(cfg, {"model": {"folder": str(records_folder(folder))}})
    assert isinstance(changed, DictConfig)
    return changed


@contextmanager
def _overrides() -> Iterator[tuple[list[str], Callable[[list[str]], DictConfig]]]:
    """The words of the command line, and what composes others; outside a job of Hydra's, only values can be changed."""
    if HydraConfig.initialized():
        job = HydraConfig.get()
        yield list(job.overrides.task), partial(hydra.compose, job.job.config_name)
    else:
        yield [], _no_groups


def _no_groups(overrides: list[str]) -> DictConfig:
    raise HydraException(f"{overrides} cannot be composed here")
