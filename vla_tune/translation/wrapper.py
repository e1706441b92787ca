"""The wrapper that shows and tells what `vla_tune.environment` asks for, of parts that a configuration names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space, Text

from vla_tune.environment import EPISODE, STARTS, STORED, SUCCESS, drawn
from vla_tune.translation.actions import ActionTo
from vla_tune.translation.moment import Moment
from vla_tune.translation.sources import Source
from vla_tune.translation.starts import Counted, SeedInto, Settle, StartFrom
from vla_tune.translation.success import as_success
from vla_tune.translation.words import in_words

DISTRACTOR = "distractor_instruction"
TRANSLATION = "translation"
"""Where `metadata` has the parts in words, which a recording keeps."""
_LONGEST = 1_000
"""Letters of an instruction."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is read of an environment, and what it is given."""

    cameras: Mapping[str, Source]
    state: Sequence[Source]
    action: ActionTo
    instruction: Source
    success: Source
    distractor: Source | None
    seed: SeedInto | None
    starts: StartFrom | None
    settle: Settle | None


class Translated(gymnasium.Wrapper):
    """An environment behind the names, units and conventions of a robot's data.

    Its pictures are functions, so that what nobody looks at is not drawn. It is reset, stepped and looked at once when it is made:
    whatever cannot be read is told before the first episode.

    Raises:
        ValueError: something is not there, or is of another kind; what is there is named beside it.
    """

    def __init__(self, env: gymnasium.Env, parts: Parts, *, task: str, control_hz: float) -> None:
        super().__init__(env)
        self._parts, self._task, self._sentences, self._steps = parts, task, {}, 0
        self.metadata = {**env.metadata, "control_hz": control_hz, TRANSLATION: in_words(parts)}
        self.action_space = Box(-np.inf, np.inf, (parts.action.dimension,), np.float32)
        shown, _ = self.reset(seed=0)
        self.observation_space = space_of(shown)
        self._take(self._still(), check=self._look)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode: seed, reset, stored state, settling steps; options `episode`, `stored` are for stored states."""
        options = dict(options or {})
        episode, stored, self._steps = options.pop(EPISODE, None), options.pop(STORED, True), self._steps + 1
        if self._parts.seed is not None and seed is not None:
            with naming("seed"):
                self._parts.seed(self.env, seed)
        shown, info = self.env.reset(seed=seed, options=options or None)
        moment = Moment(task=self._task, env=self.env, shown=shown, info=info, episode=episode)
        self._sentences = self._said(moment)
        moment = self._settled(self._started(moment, seed) if stored else moment)
        return self._read(moment), self._told(moment.info, success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps by an action of the robot."""
        with naming("action"):
            leaving = self._parts.action(np.asarray(action), self.env.action_space)
        moment, success = self._take(leaving)
        return self._read(moment), moment.reward, moment.terminated, moment.truncated, self._told(moment.info, success=success)

    def _take(self, leaving: np.ndarray, check: Callable[[Moment], Any] = lambda moment: None) -> tuple[Moment, bool]:
        moment = self._stepped(leaving)
        check(moment)
        return moment, self._succeeds(moment)

    def _succeeds(self, moment: Moment) -> bool:
        with naming("success"):
            return as_success(self._parts.success(moment), str(self._parts.success))

    def _stepped(self, leaving: np.ndarray) -> Moment:
        self._steps += 1
        shown, reward, terminated, truncated, info = self.env.step(leaving)
        return Moment(
            task=self._task,
            env=self.env,
            shown=shown,
            info=info,
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
        )

    def _started(self, moment: Moment, seed: int | None) -> Moment:
        if self._parts.starts is None:
            return moment
        starts = self._parts.starts
        with naming("starts"):
            if STARTS not in self.metadata:
                self.metadata[STARTS] = starts.count(moment) if isinstance(starts, Counted) else None
            shown = starts(moment, seed)
            if shown is None and self._parts.settle is None:
                raise ValueError("setting a state shows nothing: name the method that does (observe), or say settle.")
        return replace(moment, shown=shown)

    def _settled(self, moment: Moment) -> Moment:
        if self._parts.settle is None:
            return moment
        still = self._still()
        for number in range(self._parts.settle.steps):
            moment = self._stepped(still)
            ended = moment.terminated or moment.truncated
            if ended and not self._succeeds(moment):  # a goal that is reached by itself is told when somebody acts
                raise ValueError(
                    f"env.make.settle: the environment of task={self._task} ended the episode at step {number + 1} of rest: "
                    "say fewer steps or another action, or leave the task out."
                )
        return moment

    def _still(self) -> np.ndarray:
        """An action of the environment that does little."""
        space = self.env.action_space
        if self._parts.settle is not None:
            still = np.asarray(self._parts.settle.action, space.dtype)
            if still.shape != space.shape:
                raise ValueError(f"settle.action has {still.size} numbers, the environment takes {list(space.shape or ())}.")
            return still
        if isinstance(space, Box):
            return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        with naming("action"):
            return self._parts.action(np.zeros(self._parts.action.dimension, np.float32), space)

    def _said(self, moment: Moment) -> dict[str, str]:
        asked = {"instruction": self._parts.instruction, DISTRACTOR: self._parts.distractor}
        return {name: _sentence(name, source, moment) for name, source in asked.items() if source is not None}

    def _read(self, moment: Moment) -> dict[str, Any]:
        images = {role: partial(self._picture, role, moment, self._steps) for role in self._parts.cameras}
        numbers = [_numbers(place, source, moment) for place, source in enumerate(self._parts.state)]
        state = {"state": np.concatenate(numbers)} if numbers else {}
        return {"images": images, **state, "instruction": self._sentences["instruction"]}

    def _look(self, moment: Moment) -> None:
        for role, draw in self._read(moment)["images"].items():
            drawn(role, draw)

    def _picture(self, role: str, moment: Moment, step: int) -> np.ndarray:
        check_present(role, step, self._steps)
        with naming(f"cameras.{role}"):
            return drawn(role, self._parts.cameras[role](moment))

    def _told(self, info: Mapping[str, Any], *, success: bool) -> dict[str, Any]:
        return {**info, **{name: said for name, said in self._sentences.items() if name == DISTRACTOR}, SUCCESS: success}


def check_present(name: str, step: int, now: int) -> None:
    """Refuse to draw what was shown at a step, once another one is taken.

    Raises:
        RuntimeError: naming the picture.
    """
    if step != now:
        raise RuntimeError(f"the picture {name!r} was not drawn before the next step: what it would show is gone.")


def space_of(shown: Mapping[str, Any]) -> Dict:
    """The observation space of what is shown with pictures that are functions, which are drawn once."""
    images: dict[str, Space] = {name: Box(0, 255, draw().shape, np.uint8) for name, draw in shown["images"].items()}
    state = {"state": Box(-np.inf, np.inf, np.shape(shown["state"]), np.float32)} if "state" in shown else {}
    return Dict({"images": Dict(images), **state, "instruction": Text(_LONGEST)})


def _numbers(place: int, source: Source, moment: Moment) -> np.ndarray:
    with naming(f"state.{place}"):
        value = np.asarray(source(moment))
        if value.dtype.kind not in "biuf" or value.ndim > 1:
            raise ValueError(f"{source} is {value.dtype} of shape {list(value.shape)}: a state is a row of numbers.")
    return np.atleast_1d(value).astype(np.float32)


def _sentence(name: str, source: Source, moment: Moment) -> str:
    with naming("distractor" if name == DISTRACTOR else name):
        said = source(moment)
        if not isinstance(said, str):
            raise ValueError(f"{source} is {type(said).__name__}, not a sentence.")
    return said


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Says by which key of the configuration something was asked for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"env.make.{place}: {error}") from None
