"""A finished run -> one folder that holds all a robot needs, if every way to the model is the same."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vla_tune.adapters import Adapter
from vla_tune.check.kept import KEPT_FILE
from vla_tune.check.paths import PathReport
from vla_tune.evaluation.report import read_results
from vla_tune.export import ParityError, Report, merge
from vla_tune.export.card import model_card
from vla_tune.export.lerobot_layout import write_lerobot_layout
from vla_tune.models.base import Checkpoint
from vla_tune.models.files import new_folder
from vla_tune.models.sealed import seal
from vla_tune.printing import say
from vla_tune.run.chosen import chosen_run, step_in
from vla_tune.run.deployed import deployed_paths, describe
from vla_tune.run.folder import ADAPTER_FOLDER, CONFIG_FILE, RESULTS_FILE, load_config
from vla_tune.run.merge import base_of, dtype_of
from vla_tune.run.objects import HF_FOLDER, build
from vla_tune.run.proof import check_contract_of
from vla_tune.run.published import named_folder, stated_contract
from vla_tune.run.published_export import export_published
from vla_tune.run.recorded import recorded_frames
from vla_tune.run.stored import BASE_FOLDER, adapter_of, checkpoint_of, data_of
from vla_tune.schema import Contract


def export_run(cfg: DictConfig) -> PathReport | None:
    """What `scripts/export.py` does: write `cfg.to`, or nothing if a check fails.

    Returns what was compared; None for a published policy without recorded frames.

    Raises:
        ParityError: the exported policy is not the trained one, or it is not what is served.
        ValueError: the destination exists.
    """
    run, destination = chosen_run(cfg, named_folder(cfg.run)), Path(cfg.to)
    if (stated := stated_contract(cfg, run)) is not None:
        return export_published(cfg, run, stated)
    trained, contract = load_config(run), Contract.load(run)
    check_contract_of(run, contract)
    with new_folder(destination) as temporary:
        form, weights = _write_policy(cfg, run, temporary, contract)
        contract.save(temporary)
        if (run / KEPT_FILE).is_file():
            shutil.copy(run / KEPT_FILE, temporary)
        write_lerobot_layout(temporary, contract)
        paths = _paths(run, temporary, contract, count=cfg.frames)
        if not paths.passed:
            raise ParityError(f"{paths}\nNothing was written to {destination}.")
        _describe(temporary, destination.name, contract, trained, run, checks=[str(weights), str(paths)], form=form)
    say(f"{weights}\n{paths}\nWritten to {destination}")
    return paths


def _write_policy(cfg: DictConfig, run: Path, folder: Path, contract: Contract) -> tuple[str, Report]:
    """The weights: merged where the method is linear, else the base with the adapter beside it; and what the gate found."""
    adapter, checkpoint = adapter_of(run), checkpoint_of(run)
    check = build(cfg.gate).prepare(run)
    if (reason := _why_not_merged(adapter, run, checkpoint)) is None:
        base = base_of(checkpoint, cfg.base)
        dtype = dtype_of(cfg.dtype, base)
        options: dict[str, Any] = {"contract": contract, "check": check, "dtype": dtype}
        report = merge(folder / HF_FOLDER, base=base, adapter=adapter, adapter_folder=run / ADAPTER_FOLDER, **options)
        return f"Merged weights ({str(dtype).removeprefix('torch.')}) in the Hugging Face layout under `{HF_FOLDER}/`.", report
    shutil.copytree(checkpoint.path, folder / BASE_FOLDER)
    seal(folder / BASE_FOLDER)
    shutil.copytree(run / ADAPTER_FOLDER, folder / ADAPTER_FOLDER)
    shutil.copy(run / CONFIG_FILE, folder / CONFIG_FILE)
    contract.save(folder)
    report = check(folder)
    if not report.passed:
        raise ParityError(f"{report}\nNothing was written to {cfg.to}.")
    return f"Base weights under `{BASE_FOLDER}/` and what was learned under `{ADAPTER_FOLDER}/`: {reason}", report


def _why_not_merged(adapter: Adapter, run: Path, checkpoint: Checkpoint) -> str | None:
    try:
        adapter.changes(run / ADAPTER_FOLDER, base_hash=checkpoint.content_hash())
    except ValueError as error:
        return str(error)
    return None


def _paths(run: Path, folder: Path, contract: Contract, *, count: int) -> PathReport:
    frames = recorded_frames(data_of(run), count=count)
    return deployed_paths(folder, contract, frames, checkpoint_of(run).interface(contract))


def _describe(folder: Path, name: str, contract: Contract, trained: DictConfig, run: Path, *, checks: list[str], form: str) -> None:
    results = run / RESULTS_FILE
    known = read_results(results) if results.is_file() else {}
    tried = {section: known.get(section, []) for section in ("evaluation", "open_loop")}
    anew = known.get("training", {}).get("made_anew")
    training = {"step": step_in(run), **_training(trained)} | ({"made anew for this robot": ", ".join(anew)} if anew else {})
    card = model_card(name, contract, training=training, **tried, checks=checks, form=form)
    describe(folder, card, checks=checks, step=step_in(run))


def _training(trained: DictConfig) -> Mapping[str, Any]:
    record = OmegaConf.to_container(trained, resolve=True)
    assert isinstance(record, dict)
    plain = {str(key): value for key, value in record.items() if not isinstance(value, dict | list)}
    named = {name: record[name].get("_target_", "") for name in ("model", "adapter", "data") if isinstance(record.get(name), dict)}
    return {name: str(target).rpartition(".")[2] for name, target in named.items()} | plain
