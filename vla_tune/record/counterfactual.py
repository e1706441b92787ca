"""Counterfactual play: every frame asks "what would the expert do now if it were told this?" and simulates the answer."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vla_tune.record.folder import Code, written_once
from vla_tune.record.world import World
from vla_tune.record.writer import Frame, Storage, write_episodes
from vla_tune.schema import Embodiment, to_record


@dataclass(frozen=True, kw_only=True)
class Play:
    """How the behaviour wanders, so that its frames cover what a policy may meet.

    Probabilities are per control step. The values are those of the measured pretraining recipe: on plain demonstrations the
    same model read the target off its own position and never the words; on these it did not.
    """

    steps: int = 30
    """Length of an episode."""
    switch: float = 0.08
    """Probability that the behaviour turns to another goal."""
    keep: float = 0.7
    """Probability that a frame is kept."""
    redraw: float = 0.6
    """Probability that a kept frame is labelled for a redrawn goal instead of the behaviour's own."""
    deviation_m: float = 0.0075
    """Standard deviation of the noise on the executed translation, in half of the episodes."""
    burst: float = 0.04
    """Probability that a burst of random motion begins."""
    burst_steps: int = 3
    burst_m: float = 0.03
    """Largest random motion per axis and step."""


def counterfactual_frames(
    world: World, *, horizon: int, seed: int, worker: int = 0, play: Play | None = None
) -> Iterator[dict[str, Any]]:
    """Frames of play without end, each with the chunk that an expert would execute for its instruction.

    The chunk is the expert's closed loop of `horizon` steps, simulated from the frame's physics state; then the state is
    restored and the behaviour goes on. The sequence follows from `(seed, worker)`.

    Args:
        world: The simulation; it is used up by this generator.
        horizon: T.
        seed: Of the whole recording.
        worker: Number of this process, so that several give different frames.
        play: The behaviour; None for the default.

    Yields:
        {"images": {camera: uint8 [H W 3]}, "state": float32 [S], "action": float32 [A] (the chunk's first), "action_chunk":
        float32 [T A], "instruction": str, "target_position": float32 [2] (m, table frame), "episode": int}.
    """
    play = play or Play()
    rng = np.random.default_rng([seed, worker])
    episode = 0
    while True:
        world.scatter(rng)
        goal = world.draw_goal(rng)
        if goal is None:
            continue
        for frame in _episode(world, goal, horizon, play, rng):
            yield frame | {"episode": episode}
        episode += 1


def _episode(world: World, goal: Any, horizon: int, play: Play, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    deviation, motion = play.deviation_m * (rng.random() < 0.5), _Bursts(play)
    for _ in range(play.steps):
        if rng.random() < play.switch or world.reached(goal):
            goal = world.draw_goal(rng)
            if goal is None:
                return
        if rng.random() < play.keep:
            asked = world.draw_goal(rng) if rng.random() < play.redraw else goal
            yield _labelled(world, goal if asked is None else asked, horizon, rng)
        world.step(motion(world, world.expert(goal), deviation, rng))


def _labelled(world: World, goal: Any, horizon: int, rng: np.random.Generator) -> dict[str, Any]:
    frame = {
        "images": dict(world.images()),
        "state": world.state(),
        "instruction": world.sentence(goal, rng),
        "target_position": world.target_position(goal),
    }
    chunk = expert_chunk(world, goal, horizon=horizon)
    return frame | {"action": chunk[0], "action_chunk": chunk}


def expert_chunk(world: World, goal: Any, *, horizon: int) -> Float32[np.ndarray, "T A"]:
    """The expert's next `horizon` actions, simulated; the world is where it was afterwards."""
    now = world.snapshot()
    actions = [world.expert(goal)]
    for _ in range(horizon - 1):
        world.step(actions[-1])
        actions.append(world.expert(goal))
    world.restore(now)
    return np.stack(actions)


class _Bursts:
    """Executed action = expert's + noise, or a random motion held for a few steps."""

    def __init__(self, play: Play) -> None:
        self.play, self.left, self.motion = play, 0, np.zeros(3)

    def __call__(
        self, world: World, action: Float32[np.ndarray, " A"], deviation: float, rng: np.random.Generator
    ) -> Float32[np.ndarray, " A"]:
        if rng.random() < self.play.burst:
            self.left, self.motion = self.play.burst_steps, rng.uniform(-self.play.burst_m, self.play.burst_m, 3)
        if self.left:
            self.left -= 1
            return world.perturb(action, self.motion, replace=True)
        return world.perturb(action, rng.normal(0.0, deviation, 3), replace=False) if deviation else action


def record_counterfactual(
    folder: Path,
    *,
    world: World,
    embodiment: Embodiment,
    horizon: int,
    frames: int,
    seed: int,
    storage: Storage,
    play: Play | None = None,
) -> Path:
    """Write counterfactual frames as a dataset with the further columns `action_chunk` [T A] and `target_position` [2] (m).

    Each frame has an instruction of its own. Frames of one stretch of play form an episode; since some were not kept, its time
    stamps count the kept ones. Read it with `RecordedChunks`, never with `ChunksByTimestamp`.

    Args:
        folder: Of the dataset; left as it is if the same call recorded it before.
        world: The simulation.
        embodiment: Names, sizes and rate.
        horizon: T.
        frames: How many at least; the last stretch is finished.
        seed: Of everything.
        storage: Of the pictures.
        play: The behaviour; None for the default.

    Raises:
        ValueError: the folder holds something else.
        OSError: the disk is full.
    """
    play = play or Play()
    recipe = {
        "kind": "counterfactual",
        "world": f"{type(world).__qualname__} {getattr(world, 'tasks', '')}",
        "embodiment": to_record(embodiment),
        "horizon": horizon,
        "frames": frames,
        "seed": seed,
        "play": asdict(play),
        "storage": asdict(storage),
    }
    source = counterfactual_frames(world, horizon=horizon, seed=seed, play=play)
    extra = {"action_chunk": (horizon, embodiment.action_dimension), "target_position": (2,)}
    episodes = _episodes(source, frames, embodiment)
    code = Code.behind(world=type(world))
    return written_once(
        folder, recipe, lambda root: write_episodes(root, episodes, embodiment=embodiment, storage=storage, extra=extra), code
    )


def _episodes(source: Iterator[dict[str, Any]], frames: int, body: Embodiment) -> Iterator[list[Frame]]:
    written = 0
    for _, stretch in groupby(source, key=itemgetter("episode")):
        rows = [_row(frame, body) for frame in stretch]
        written += len(rows)
        yield rows
        if written >= frames:
            return


def _row(frame: dict[str, Any], body: Embodiment) -> Frame:
    images = {camera.key: frame["images"][camera.role] for camera in body.cameras}
    numbers = {key: frame[key] for key in ("action_chunk", "target_position")}
    return images | numbers | {body.state_key: frame["state"], body.action_key: frame["action"], "task": frame["instruction"]}
