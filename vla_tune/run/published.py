"""Published policies: a downloaded folder or a hub's name, and the contract that its files and the user's words make up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vla_tune.data.dataset import ChunksByTimestamp
from vla_tune.data.sources import Data, Local, load_demonstrations
from vla_tune.models.files import CONFIG_FILE as MODEL_FILE
from vla_tune.models.foreign import plain_config
from vla_tune.models.hub import checkpoint_folder
from vla_tune.models.openvla import OpenVLAConfig
from vla_tune.models.openvla.assumed import Said, assumed_contract
from vla_tune.models.openvla.published import PICTURES
from vla_tune.models.plain_folder import plain
from vla_tune.printing import say
from vla_tune.run.folder import CONFIG_FILE
from vla_tune.run.stored import loading
from vla_tune.schema import CONTRACT_FILE, Contract, embodiment_from_record, to_record
from vla_tune.training.settings import check_number, check_whole

KEYS = ("unnorm_key", "embodiment", "cameras", "control_hz", "horizon", "predicts", "normalization", "pictures")
"""Of a configuration: what is said of a published policy, and of nothing else."""
RECORDED = "recorded"
_OPTIONS: Mapping[str, tuple[str | None, ...]] = {
    "predicts": (None, "autoregressive", "parallel", "regression"),
    "normalization": (None, "quantile", "min_max", "mean_std"),
    "pictures": (None, *PICTURES),
    "precision": ("bf16", "fp32"),
}


def named_folder(name: str) -> Path:
    """The folder that is meant; what looks like the id of a published policy on the hub is downloaded first.

    Raises:
        FileNotFoundError: it is an id, and there is no network.
    """
    path = Path(name)
    mistyped = len(path.parts) == 2 and Path(path.parts[0]).is_dir()  # runs/... is a run's place, not its author
    return path if path.exists() or mistyped else checkpoint_folder(name)


def is_published(folder: Path) -> bool:
    """Whether OpenVLA's or OpenVLA-OFT's authors, or others with their code, wrote it: a model without a contract."""
    if not (folder / MODEL_FILE).is_file() or any((folder / name).exists() for name in (CONTRACT_FILE, CONFIG_FILE)):
        return False
    with loading(plain(folder)):
        return plain_config(folder).get("model_type") == OpenVLAConfig.model_type


def stated_contract(cfg: DictConfig, folder: Path) -> Contract | None:
    """The contract of a published policy, from its files and `cfg`, with a few lines on what was assumed; None of any other folder.

    Raises:
        ValueError: something is missing that neither says; or something is said of a folder that has its own contract.
    """
    if not is_published(folder):
        if needless := [key for key in (*KEYS, RECORDED) if cfg.get(key)]:
            raise ValueError(f"{needless[0]}= is said of published policies, and {folder} is none: leave it out.")
        return None
    said = said_in(cfg)
    with loading(folder):
        assumed = assumed_contract(folder, said)
    lines = "\n".join(f"  {line}" for line in assumed.said)
    say(
        f"{folder} is a published policy, of which this is assumed (in brackets, what says otherwise):\n{lines}",
    )
    return assumed.contract


def said_in(cfg: DictConfig) -> Said:
    """What a configuration says of a published policy.

    Raises:
        ValueError: a key has a value that it cannot have.
    """
    for key, options in _OPTIONS.items():
        if cfg[key] not in options:
            raise ValueError(f"{key}={cfg[key]!r}: choose one of {', '.join(filter(None, options))}.")
    if cfg.horizon is not None:
        check_whole("horizon", cfg.horizon, least=1)
    if cfg.control_hz is not None:
        check_number("control_hz", cfg.control_hz, most=1e5)
    return Said(
        unnorm_key=None if cfg.unnorm_key is None else str(cfg.unnorm_key),
        embodiment=None if cfg.get("embodiment") is None else embodiment_from_record(_record(cfg.embodiment, "embodiment")),
        cameras={str(role): str(size) for role, size in _record(cfg.cameras or {}, "cameras").items()},
        control_hz=None if cfg.control_hz is None else float(cfg.control_hz),
        horizon=cfg.horizon,
        predicts=cfg.predicts,
        normalization=cfg.normalization,
        pictures=cfg.pictures,
        precision=cfg.precision,
    )


def recorded_data(cfg: DictConfig, contract: Contract) -> Data | None:
    """The demonstrations in the folder `cfg.recorded`, as the robot of `contract` sees them; None where none is named.

    Raises:
        ValueError: they are another robot's.
    """
    if cfg.recorded is None:
        return None
    return load_demonstrations(
        embodiment=to_record(contract.embodiment),
        sources=[Local(cfg.recorded)],
        weights=[1.0],
        chunks=ChunksByTimestamp(contract.horizon),
        held_out=0.1,
        seed=0,
    )


def _record(node: Any, key: str) -> dict[str, Any]:
    plain_node = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain_node, dict):
        raise ValueError(f"{key}={node}: write names and values, as in 'cameras={{front: 256x256}}' or embodiment=<a file's name>.")
    return {str(name): value for name, value in plain_node.items()}
