"""The tiny base from nothing: see what is where, then act on what is said."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from envs.goals import PHRASES
from envs.grounding import pictures
from envs.scene import COLOURS, TOOL_HIGH, Scene
from vla_tune.check.kept import KEPT_FRAMES, Kept
from vla_tune.data import build_pipeline, make_contract
from vla_tune.data.memory import FramesInMemory
from vla_tune.data.recorded import observation_in
from vla_tune.data.transforms import Transformed
from vla_tune.evaluation.kept import CELLS
from vla_tune.models.openvla import OpenVLA
from vla_tune.models.openvla.inputs import OpenVLAInputs
from vla_tune.models.openvla.location import WeighedLocation
from vla_tune.models.openvla.record import Given, ImageRule
from vla_tune.models.openvla.save import save_checkpoint
from vla_tune.models.openvla.tiny import PROMPT, VOCABULARY_SIZE, smooth_action_rows, tiny_config, train_tokenizer
from vla_tune.models.precision import choose_attention
from vla_tune.policy import LocalPolicy
from vla_tune.record import counterfactual_frames
from vla_tune.record.tabletop import TabletopWorld
from vla_tune.run.ablations import Ablation, WrongInstruction
from vla_tune.run.evaluate import evaluate, print_rows
from vla_tune.run.folder import METRICS_FILE
from vla_tune.run.lock import locked
from vla_tune.run.manifest import MANIFEST_FILE, abilities
from vla_tune.run.objects import build, load_policy
from vla_tune.run.opening import open_run
from vla_tune.schema import Contract, Embodiment, embodiment_from_record
from vla_tune.tokens import BinTokenizer, uniform_edges
from vla_tune.training import TrainingResult, train
from vla_tune.training.grounding import GroundingBatch, GroundingMetrics, ground, grounding_batch
from vla_tune.training.loggers import ConsoleLogger, JsonlLogger
from vla_tune.training.metrics import held_out

_REACH = (float(TOOL_HIGH[0]), float(TOOL_HIGH[1]))
_LOCATION_CODES = 2
_GROUNDED = "grounded.safetensors"
_PACKAGES = ("vla-tune", "torch", "transformers", "timm", "mujoco", "numpy")


def pretrain(cfg: DictConfig, folder: Path, *, resume_command: str) -> None:
    """What `scripts/pretrain.py` does: write the checkpoint `cfg.to` with a manifest of how it was made and what it can do."""
    with locked(folder):
        open_run(cfg, folder)
        _pretrained(cfg, folder, resume_command=resume_command)


def _pretrained(cfg: DictConfig, folder: Path, *, resume_command: str) -> None:
    start, body = time.perf_counter(), embodiment_from_record(OmegaConf.to_container(cfg.embodiment))  # pyright: ignore[reportArgumentType]
    with ProcessPoolExecutor(cfg.play.processes, mp_context=get_context("spawn")) as pool:
        playing = _play(cfg, body, pool)
        torch.manual_seed(cfg.seed)
        model = OpenVLA(tiny_config())
        choose_attention(model, "cpu")
        smooth_action_rows(model)
        _ground(model, cfg, folder / _GROUNDED)
        frames = FramesInMemory.joined([part.result() for part in playing])
    tokenizer = train_tokenizer(sentences())
    contract = contract_of(cfg, body, frames)
    result = _train(cfg, folder, model, contract, frames, tokenizer, resume_command=resume_command)
    save_checkpoint(Path(cfg.to), model, tokenizer, contract)
    rows = _evaluated(cfg, folder, frames)
    print_rows(rows, title=str(cfg.to))
    _write_manifest(cfg, frames, result, rows, command=resume_command, seconds=time.perf_counter() - start)


def sentences() -> list[str]:
    """Every instruction of the tabletop: what the tokenizer's pieces are made of."""
    return [phrase.format(c=c, o=o) for phrases in PHRASES.values() for phrase in phrases for c in COLOURS for o in COLOURS]


def contract_of(cfg: DictConfig, body: Embodiment, frames: FramesInMemory) -> Contract:
    """The contract of the tiny base."""
    size, half = tiny_config().image_sizes[0], (0.5, 0.5, 0.5)
    rule = ImageRule(height=size, width=size, resize="resize-naive", center_crop_area=1.0, means=(half,), deviations=(half,))
    given = Given(image=rule, prompt=PROMPT, vocabulary_size=VOCABULARY_SIZE, location_codes=_LOCATION_CODES)
    return make_contract(
        body,
        statistics=frames.statistics("counterfactual_play"),
        horizon=cfg.horizon,
        execute_steps=cfg.horizon,
        precision=cfg.precision,
        model=given.part(BinTokenizer(uniform_edges(256), VOCABULARY_SIZE), decoding="parallel"),
    )


def play(*, tasks: tuple[str, ...], body: Embodiment, horizon: int, seed: int, worker: int, frames: int) -> FramesInMemory:
    """One worker's share of the counterfactual play."""
    world = TabletopWorld(tasks, {camera.role: (camera.height, camera.width) for camera in body.cameras})
    stream = counterfactual_frames(world, horizon=horizon, seed=seed, worker=worker)
    return FramesInMemory.gather(islice(stream, frames), body, reach=_REACH)


def _play(cfg: DictConfig, body: Embodiment, pool: ProcessPoolExecutor) -> list[Future[FramesInMemory]]:
    settings = {"tasks": tuple(cfg.tasks), "body": body, "horizon": cfg.horizon, "seed": cfg.seed}
    share = cfg.play.frames // cfg.play.processes
    return [pool.submit(play, **settings, worker=worker, frames=share) for worker in range(cfg.play.processes)]


def _ground(model: OpenVLA, cfg: DictConfig, path: Path) -> None:
    """Stage one; its result is kept, so that a resumed run does not repeat it."""
    if path.is_file():
        model.load_state_dict(load_file(path))
        return
    options = dict(cfg.grounding)
    batches = _pictures(cfg.seed, options.pop("batch_size"), model.config.image_sizes[0])
    ground(model, batches, **options, on_step=_Narrator(options["steps"]))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def _pictures(seed: int, batch: int, size: int) -> Iterator[GroundingBatch]:
    scene, rng = Scene(), np.random.default_rng([seed, 1])
    while True:
        shown = pictures(scene, rng, batch=batch, height=size, width=size)
        yield grounding_batch(shown.images, shown.present, shown.pixels, shown.positions / np.array(_REACH))


class _Narrator:
    """Prints how well the vision tower knows what is where, every hundred steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self._console = steps, Console(stderr=True)

    def __call__(self, step: int, metrics: GroundingMetrics) -> None:
        if step % 100 == 0 or step == self._steps:
            error = 1000 * metrics.position_error * _REACH[0]
            line = f"grounding {step}/{self._steps}  presence {metrics.presence_accuracy:.4f}  error {error:.1f} mm"
            self._console.print(line, highlight=False)


def _train(
    cfg: DictConfig,
    folder: Path,
    model: OpenVLA,
    contract: Contract,
    frames: FramesInMemory,
    tokenizer: PreTrainedTokenizerBase,
    *,
    resume_command: str,
) -> TrainingResult:
    """Stage two: instruction and picture -> the expert's chunk; the vision tower stays as it is."""
    model.vision_backbone.requires_grad_(False)
    interface = OpenVLAInputs.of(contract, tokenizer, head=build(cfg.head))
    pipeline = build_pipeline(contract, interface)
    samples = Transformed(frames, pipeline)
    split = len(frames) - cfg.play.held_out
    return train(
        model=WeighedLocation(interface.over(model), _LOCATION_CODES, cfg.location_weight),
        samples=_Part(samples, 0, split),
        validation=held_out(
            _Part(samples, split, len(frames)),
            **cfg.validation,
            inverse=pipeline.robot_actions,
            units=contract.embodiment.action_units,
        ),
        optimizer=build(cfg.optimizer),
        schedule=build(cfg.schedule),
        precision=cfg.precision,
        seed=cfg.seed,
        run=folder,
        loggers=[ConsoleLogger(steps=cfg.training.steps), JsonlLogger(folder / METRICS_FILE)],
        pad_id=interface.pad_id,
        resume_command=resume_command,
        **cfg.training,
    )


class _Part:
    """Samples [start, stop); torch's `Subset` wants its own `Dataset` class."""

    def __init__(self, samples: Transformed, start: int, stop: int) -> None:
        self._samples, self._start, self._stop = samples, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._samples[self._start + index]


def _evaluated(cfg: DictConfig, folder: Path, frames: FramesInMemory) -> list[dict[str, Any]]:
    """What the written checkpoint can do, and whether it listens."""
    trained = load_policy(Path(cfg.to), rows=cfg.evaluation.rows, device="cpu")
    _keep(trained.policy, frames, Path(cfg.to), held_out=cfg.play.held_out)
    cells: list[tuple[str, str, Ablation | None]] = [("base", task, None) for task in (*cfg.tasks, *cfg.unseen)]
    cells += [("wrong_instruction", task, WrongInstruction()) for task in cfg.tasks]
    return [evaluate(cfg, trained, policy=policy, task=task, folder=folder / CELLS, ablation=one) for policy, task, one in cells]


def _keep(policy: LocalPolicy, frames: FramesInMemory, folder: Path, *, held_out: int) -> None:
    """What the checkpoint does on some of its held-out frames, the last ones, beside it."""
    rows = np.unique(np.linspace(len(frames) - held_out, len(frames) - 1, KEPT_FRAMES).astype(int))
    seen = [observation_in(frames[int(row)], frames.embodiment) for row in rows]
    Kept.of(policy, seen, policy.contract).save(folder)


def _write_manifest(
    cfg: DictConfig, frames: FramesInMemory, result: TrainingResult, rows: list[dict[str, Any]], *, command: str, seconds: float
) -> None:
    record = {
        "command": command,
        **abilities(rows, suite=cfg.env.suite),
        "configuration": OmegaConf.to_container(cfg, resolve=True),
        "seconds": round(seconds),
        "data_hash": frames.content_hash(),
        "versions": {name: version(name) for name in _PACKAGES},
        "training": asdict(result),
        "evaluation": rows,
    }
    (Path(cfg.to) / MANIFEST_FILE).write_text(json.dumps(record, indent=1) + "\n")
