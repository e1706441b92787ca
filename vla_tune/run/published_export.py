"""A published policy -> the folder for a robot: its files as they are, and the contract that was made for them."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from omegaconf import DictConfig

from vla_tune.check.kept import KEPT_FRAMES, Kept
from vla_tune.check.paths import PathReport
from vla_tune.data.recorded import observation_in
from vla_tune.export import ParityError
from vla_tune.export.card import model_card
from vla_tune.export.lerobot_layout import write_lerobot_layout
from vla_tune.models.files import new_folder
from vla_tune.models.hub import WANTED
from vla_tune.models.sealed import seal
from vla_tune.printing import say
from vla_tune.run.deployed import deployed_paths, describe
from vla_tune.run.objects import HF_FOLDER, load_policy
from vla_tune.run.published import recorded_data
from vla_tune.run.recorded import recorded_frames
from vla_tune.run.stored import checkpoint_in
from vla_tune.schema import Contract


def export_published(cfg: DictConfig, folder: Path, contract: Contract) -> PathReport | None:
    """Write `cfg.to`; with `cfg.recorded`, some of its frames and what the policy does on them go along. None without.

    Raises:
        ParityError: the exported policy is not the published one, or it is not what is served.
        ValueError: the destination exists or lies in the published folder, or there are no frames and nobody said `unproved`.
    """
    destination = Path(cfg.to)
    if destination.is_relative_to(str(cfg.run)) or destination.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"to={cfg.to} lies in the published folder: say to=<a folder of its own>.")
    data = recorded_data(cfg, contract)
    if data is None and not cfg.unproved:
        raise ValueError(
            f"nothing says that {cfg.run} does on your robot what it did on its authors': say recorded=<the folder of a "
            "LeRobotDataset>, whose frames go along with what it does on them; or say unproved=true."
        )
    with new_folder(destination) as temporary:
        _copy(folder, temporary / HF_FOLDER, contract)
        contract.save(temporary)
        write_lerobot_layout(temporary, contract)
        paths = None
        if data is not None:
            frames = recorded_frames(data, count=cfg.frames)
            seen = [observation_in(frame, contract.embodiment) for frame in frames]
            paths = deployed_paths(temporary, contract, frames, checkpoint_in(folder).interface(contract))
            if not paths.passed:
                raise ParityError(f"{paths}\nNothing was written to {destination}.")
            policy = load_policy(temporary, rows=1, device="cpu").policy
            Kept.of(policy, seen[:KEPT_FRAMES], contract).save(temporary)
        checks = ["no recorded frames were named, so nothing was compared"] if paths is None else [str(paths)]
        form = f"Weights as published, in the Hugging Face layout under `{HF_FOLDER}/`."
        card = model_card(destination.name, contract, training={"published as": cfg.run}, evaluation=[], checks=checks, form=form)
        describe(temporary, card, checks=checks, step=None)
    say(f"{checks[0]}\nWritten to {destination}")
    return paths


def _copy(folder: Path, target: Path, contract: Contract) -> None:
    """The files that are read, and no code."""
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in WANTED):
            shutil.copyfile(path, target / path.name)
    contract.save(target)
    seal(target)
