"""What a configuration describes, as objects."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from vla_tune.check.machine import NO_GPU, unusable_gpu
from vla_tune.data import build_pipeline
from vla_tune.models.base import ModelInterface
from vla_tune.models.cpu_bfloat16 import quick_bfloat16
from vla_tune.models.liveness import check_liveness, probes
from vla_tune.models.plain_folder import plain
from vla_tune.policy import LocalPolicy
from vla_tune.run.folder import ADAPTER_FOLDER, CONFIG_FILE
from vla_tune.run.stored import BASE_FOLDER, adapter_of, checkpoint_in, checkpoint_of, loading
from vla_tune.schema import CONTRACT_FILE, BaseWeights, Contract

HF_FOLDER = "hf"
"""In an exported folder: the merged weights."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A policy with what it consists of."""

    policy: LocalPolicy
    folders: tuple[Path, ...]
    """Whose content identifies it; a base that was drawn from a seed has none, and the adapter holds its hash."""


def build(cfg: Any, **arguments: Any) -> Any:
    """The object that a part of the user's own configuration names; what comes with a run is read by `run.stored`."""
    return instantiate(cfg, _convert_="all", **arguments)


def device_of(cfg: DictConfig) -> str:
    """`auto` is cuda where there is one; a card that torch cannot use is told."""
    if cfg.device != "auto":
        return _present(str(cfg.device))
    _tell_unusable_gpu()
    return "cuda" if torch.cuda.is_available() else "cpu"


def _present(device: str) -> str:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device}: {unusable_gpu() or NO_GPU} Say device=cpu to compute there.")
    return device


@cache
def _tell_unusable_gpu() -> None:
    """Once."""
    if (reason := unusable_gpu()) is not None:
        print(f"Computing on the CPU. {reason}", file=sys.stderr)


def forward_context(precision: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Opens the autocast that a contract's precision asks for."""
    return {"bf16": partial(_autocast, device), "fp32": nullcontext}[precision]


@contextmanager
def _autocast(device: str) -> Iterator[None]:
    with quick_bfloat16(device), torch.autocast(device, torch.bfloat16):
        yield


def policy_of(network: nn.Module, contract: Contract, interface: ModelInterface, *, rows: int, device: str) -> LocalPolicy:
    """A network behind the pipeline that its contract describes; `interface` is the model's part of it.

    Raises:
        ValueError: the network does not react to images or instructions.
    """
    policy = unprobed_policy(network, contract, interface, rows=rows, device=device)
    check_liveness(policy.forward, policy.pipeline, contract.embodiment)
    return policy


def unprobed_policy(network: nn.Module, contract: Contract, interface: ModelInterface, *, rows: int, device: str) -> LocalPolicy:
    """The same, taken on trust, without a forward pass."""
    return LocalPolicy(
        interface.over(network),
        build_pipeline(contract, interface),
        contract,
        pad_id=interface.pad_id,
        rows=rows,
        precision=forward_context(contract.precision, device),
    )


def load_policy(folder: Path, *, rows: int, device: str, contract: Contract | None = None) -> Trained:
    """The policy in a run's folder (base and adapter), a checkpoint folder (merged, or the base itself) or an exported folder.

    Args:
        folder: Where it lies.
        rows: Observations in one forward pass.
        device: Where it computes.
        contract: Of a published policy, whose folder has none (`run.published`).
    """
    gc.collect()  # adapters and their models refer to each other: one that nobody needs any more would lie beside the next
    with loading(plain(folder)):
        if contract is not None:
            return _load_checkpoint(folder, contract, rows=rows, device=device)
        if (folder / HF_FOLDER).is_dir() and not (folder / BASE_FOLDER).is_dir():
            return _load_checkpoint(folder / HF_FOLDER, None, rows=rows, device=device)
        if (folder / CONFIG_FILE).is_file():
            return _load_run(folder, rows=rows, device=device)
        return _load_checkpoint(folder, None, rows=rows, device=device)


def answer(policy: LocalPolicy) -> Tensor:
    """What a policy's model computes for a fixed probe, so that two can be compared bit for bit."""
    return policy.forward(policy.forward.answer, [probes(policy.pipeline, policy.contract.embodiment)[0]])


def load_base(run: Path, *, rows: int, device: str) -> LocalPolicy:
    """The base of a run without what was learned, behind the run's contract."""
    with loading(run):
        checkpoint = checkpoint_of(run)
        contract = Contract.load(run)
        interface = checkpoint.interface(contract)
        return policy_of(checkpoint.load(device=device), contract, interface, rows=rows, device=device)


def _load_checkpoint(folder: Path, contract: Contract | None, *, rows: int, device: str) -> Trained:
    checkpoint, contract = checkpoint_in(folder), contract or Contract.load(folder)
    interface = checkpoint.interface(contract)
    return Trained(policy_of(checkpoint.load(device=device), contract, interface, rows=rows, device=device), (folder,))


def _load_run(folder: Path, *, rows: int, device: str) -> Trained:
    checkpoint, adapter, adapter_folder = checkpoint_of(folder), adapter_of(folder), finished_adapter(folder)
    contract = Contract.load(folder)
    interface, model = checkpoint.interface(contract), checkpoint.load(device=device)
    base = BaseWeights(content_hash=checkpoint.content_hash(), format=adapter.base)
    check_adapter_contract(adapter_folder, contract, base)
    without = answer(unprobed_policy(model, contract, interface, rows=rows, device=device))
    adapter.attach(model)
    adapter.load(adapter_folder, model, base_hash=base.content_hash)
    policy = policy_of(model, contract, interface, rows=rows, device=device)
    if torch.equal(answer(policy), without):
        raise without_effect(adapter_folder)
    return Trained(policy, tuple(place for place in (checkpoint.path, adapter_folder) if place.is_dir()))


def finished_adapter(run: Path) -> Path:
    """The folder with what a run learned.

    Raises:
        FileNotFoundError: there is none yet.
    """
    folder = run / ADAPTER_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: the run is not finished; start it again to resume it.")
    return folder


def without_effect(adapter_folder: Path) -> ValueError:
    """What is raised for an adapter with which the base answers as it does without."""
    return ValueError(
        f"{adapter_folder} changes nothing: the base answers the same with and without it. It was never trained, or its files "
        "are another run's: train it, or copy the adapter folder again."
    )


def check_adapter_contract(adapter_folder: Path, contract: Contract, base: BaseWeights) -> None:
    """The adapter folder names the base and says the same as the run around it.

    Raises:
        ValueError: it belongs to another base or another format of it, or its contract is not the run's.
    """
    own = Contract.load(adapter_folder)
    if own.base != base:
        raise ValueError(f"{adapter_folder} belongs to {own.base}, the model is {base}: use the base folder of its training run.")
    if different := own.differences(contract, beside=("version", "base")):
        raise ValueError(
            f"{adapter_folder / CONTRACT_FILE} and that of the run around it differ: {different[0]} there. An adapter acts as its "
            "own contract says; take both from one training run."
        )
