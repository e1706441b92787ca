"""The main job: demonstrations -> adapter -> evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vla_tune.adapters import Adapter, Begun
from vla_tune.data import build_pipeline, make_contract, training_pipeline
from vla_tune.data.inspection import check_data
from vla_tune.data.sources import Data
from vla_tune.data.transforms import Compose, Transformed
from vla_tune.evaluation.report import read_results
from vla_tune.models.base import Checkpoint, Wanted
from vla_tune.models.forward import Forward
from vla_tune.models.liveness import check_liveness
from vla_tune.models.precision import report_text, weight_report
from vla_tune.models.recomputation import recompute_activations
from vla_tune.models.sealed import seal
from vla_tune.printing import say
from vla_tune.run.base import Base, measured_base
from vla_tune.run.budget import in_words
from vla_tune.run.changes import resumption
from vla_tune.run.check import recorded_in
from vla_tune.run.evaluate import print_tables
from vla_tune.run.finishing import finish, finished
from vla_tune.run.fit import check_fit
from vla_tune.run.folder import ADAPTER_FOLDER, METRICS_FILE, RESULTS_FILE, quoted, steps_of
from vla_tune.run.following import Following, Run, following_of
from vla_tune.run.objects import build, device_of, finished_adapter, forward_context
from vla_tune.run.opening import opened_run
from vla_tune.run.origin import begin, origin_of
from vla_tune.run.settings import check_training
from vla_tune.run.stored import own_classes, trusting
from vla_tune.schema import BaseWeights, Contract, write_json
from vla_tune.training import train
from vla_tune.training.loggers import ConsoleLogger
from vla_tune.training.metrics import EvenlySpaced, Validation, held_out


def fine_tune(cfg: DictConfig, folder: Path, *, resume_command: str) -> float:
    """Train what `cfg` describes in `folder`, evaluate it, and write `results.json`, plots and films.

    A folder that was begun is resumed; one that is finished is only reported. Returns what a sweep minimises: the failure rate
    on the task, the open-loop error or the held-out loss, as the run is tried.
    """
    check_training(cfg)
    following, run = following_of(cfg), Run(cfg, folder, lambda: build(cfg.data))
    if not (folder / RESULTS_FILE).is_file():
        check_fit(cfg)
    with opened_run(cfg, folder), trusting(own_classes(OmegaConf.to_container(cfg))):
        if not finished(folder):
            new = not (folder / RESULTS_FILE).is_file()
            with run.budget.part("train"):
                training, base = _trained(run, following, resume_command=resume_command) if new else (None, None)
            with _after_training(folder), run.budget.part("evaluate"):
                finish(run, following, training=training, base=base)
            _keep_budget(run)
        return report(folder, following)


def _keep_budget(run: Run) -> None:
    """Beside the results, of what this command did."""
    path = run.folder / RESULTS_FILE
    write_json(path, read_results(path) | {"budget": run.budget.record})


@contextmanager
def _after_training(folder: Path) -> Iterator[None]:
    """What fails here has lost nothing: the message says how to go on."""
    try:
        yield
    except Exception as error:
        error.add_note(f"(The training is done and kept: correct this, and go on with hydra.run.dir={quoted(str(folder))}.)")
        raise


def report(folder: Path, following: Following) -> float:
    """Print the results of a finished run; returns what a sweep minimises."""
    results = read_results(folder / RESULTS_FILE)
    training = results["training"]
    print_tables(results, title=folder.name)
    say(
        f"{training['steps']} steps in {training['seconds']:.0f} s ({training['cpu_seconds']:.0f} CPU s), "
        f"{training['trainable_parameters']:,} trainable parameters. Everything is in {folder}",
    )
    if "budget" in results:
        say(f"Budget: {in_words(results['budget'])}.")
    return following.number(results)


def contract_of(cfg: DictConfig, data: Data, checkpoint: Checkpoint, *, head: Any) -> Contract:
    """The contract of a run: the robot and its statistics from the data, the model's part from the base."""
    wanted = Wanted(
        embodiment=data.embodiment, horizon=cfg.horizon, actions=data.actions, tokens=build(cfg.get("tokens") or None), head=head
    )
    return make_contract(
        data.embodiment,
        statistics=data.statistics,
        horizon=cfg.horizon,
        execute_steps=cfg.execute_steps,
        precision=cfg.precision,
        model=checkpoint.part(wanted),
        augmentation=build(cfg.get("augmentation")),
    )


def _trained(run: Run, following: Following, *, resume_command: str) -> tuple[dict[str, Any], Base]:
    """What training came to, with the loss on training samples, measured as that on held-out ones is; and its base before it."""
    cfg, folder = run.cfg, run.folder
    checkpoint: Checkpoint = build(cfg.model)
    adapter, data = build(cfg.adapter), run.data
    head = build(cfg.get("head") or None)
    contract = contract_of(cfg, data, checkpoint, head=head)
    interface = checkpoint.interface(contract, head=head)
    pipeline = build_pipeline(contract, interface)
    check_data(data, contract, interface)
    following.before(cfg, data, contract, pipeline)
    origin = origin_of(checkpoint, device=device_of(cfg), data=data.fingerprint)
    begin(folder, contract, origin, resume=cfg.resume)
    torch.manual_seed(cfg.seed)
    network = _loaded(cfg, checkpoint)
    recorded = recorded_in(data, count=cfg.evaluation.probed)
    base = measured_base(network, contract, interface, recorded, device=device_of(cfg))
    _adapt(cfg, adapter, network)
    if not steps_of(folder):
        start(adapter, network, cfg.start, base_hash=origin.base_hash)
    model = interface.over(network)
    forward = Forward(model, interface.pad_id, forward_context(cfg.precision, device_of(cfg)))
    check_liveness(forward, pipeline, data.embodiment)
    result = train(
        model=model,
        samples=Transformed(data.training, training_pipeline(contract, interface)),
        validation=_validation(cfg, data, pipeline),
        optimizer=build(cfg.optimizer),
        schedule=build(cfg.schedule),
        on_non_finite=build(cfg.on_non_finite),
        average=build(cfg.average),
        resumption=resumption(folder),
        precision=cfg.precision,
        seed=cfg.seed,
        run=folder,
        loggers=[ConsoleLogger(steps=cfg.training.steps), *_loggers(cfg, folder)],
        pad_id=interface.pad_id,
        resume_command=resume_command,
        **cfg.training,
    )
    weights = BaseWeights(content_hash=origin.base_hash, format=adapter.base)
    adapter.save(folder / ADAPTER_FOLDER, network, base_hash=weights.content_hash)
    replace(contract, base=weights).save(folder / ADAPTER_FOLDER)
    seal(folder / ADAPTER_FOLDER)
    seen = EvenlySpaced(Transformed(data.training, pipeline), count=min(len(data.validation), cfg.validation.seen))
    anew = list(getattr(network, "made_anew", ()))
    loss = Validation(seen).measure(forward, batch_size=cfg.training.batch_size).get("validation/loss")
    return asdict(result) | {"made_anew": anew, "training_loss": loss}, base


def _validation(cfg: DictConfig, data: Data, pipeline: Compose) -> Validation:
    return held_out(
        Transformed(data.validation, pipeline),
        first_frames=data.validation.first_frames.tolist(),
        frames=cfg.validation.frames,
        predicted=cfg.validation.predicted,
        inverse=pipeline.robot_actions,
        units=data.embodiment.action_units,
    )


def start(adapter: Adapter, model: Any, run: str | None, *, base_hash: str) -> None:
    """Let a new run begin where another ended, or where its adapter's own files say.

    Raises:
        FileNotFoundError: the other run is not finished.
        ValueError: it has another base or another adapter.
    """
    if run is not None:
        adapter.load(finished_adapter(Path(run)), model, base_hash=base_hash)
    elif isinstance(adapter, Begun):
        adapter.begin(model, base_hash=base_hash)


def _loaded(cfg: DictConfig, checkpoint: Checkpoint) -> Any:
    """The base; what lies in memory is printed."""
    model = checkpoint.load(device=device_of(cfg))
    say(report_text(weight_report(model)))
    return model


def _adapt(cfg: DictConfig, adapter: Adapter, model: Any) -> None:
    """Put the adapter in; what learns is printed."""
    say(str(adapter.attach(model)))
    if cfg.checkpointing:
        recompute_activations(model)


def _loggers(cfg: DictConfig, folder: Path) -> list[Any]:
    made = {
        "jsonl": lambda logger: logger(folder / METRICS_FILE),
        "wandb": lambda logger: logger(name=folder.name, folder=folder),
    }
    return [made[name](build(logger)) for name, logger in cfg.logger.items()]
