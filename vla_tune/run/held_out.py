"""The policy is compared with what was recorded in episodes that it never learned from: no environment is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vla_tune.check.finding import Finding
from vla_tune.data.recorded import observation_in
from vla_tune.data.sources import Data
from vla_tune.data.transforms import Transform
from vla_tune.evaluation.likelihood import mean_log_probability
from vla_tune.evaluation.open_loop import Say, compared, open_loop_row, other_sentences
from vla_tune.evaluation.open_loop_plots import Drawn, plot_actions, plot_errors
from vla_tune.evaluation.stats import of_the_trained
from vla_tune.policy import LocalPolicy
from vla_tune.printing import say
from vla_tune.run.base import why_not_tried
from vla_tune.run.folder import ACTIONS_PLOT, ERRORS_PLOT
from vla_tune.run.following import Row, Run, check_common, not_replayed, place_of, tell_unused_environment
from vla_tune.run.objects import Trained, device_of, load_policy
from vla_tune.schema import Contract
from vla_tune.training.metrics import EvenlySpaced
from vla_tune.training.settings import check_whole

_LONGEST = 100
"""Chunks of an episode that are drawn."""


@dataclass(frozen=True)
class HeldOut:
    """Open-loop errors on held-out frames: base, trained policy, trained policy with another task's instruction (`Following`)."""

    section: str = "open_loop"

    def before(self, cfg: DictConfig, data: Data, contract: Contract, pipeline: Transform) -> None:
        """Looks at the settings, and says what will not be tried."""
        check_common(cfg)
        check_whole("evaluation.frames", cfg.evaluation.frames, least=1)
        check_whole("evaluation.drawn", cfg.evaluation.drawn, least=0)
        tell_unused_environment(cfg, "held_out")
        if (why := why_not_tried(Path(cfg.model.folder), contract.embodiment)) is not None:
            say(why)
        if not other_sentences(data.instructions):
            say("A wrong instruction is not tried: the data hold one sentence, there is no other task's.")

    def of_base(self, run: Run, contract: Contract) -> list[Row]:
        """Behind its own contract."""
        base = Path(run.cfg.model.folder)
        if why_not_tried(base, contract.embodiment) is not None:
            return []
        trained = load_policy(base, rows=run.cfg.evaluation.rows, device=device_of(run.cfg))
        return [_row(_held_out(run), run, trained.policy, contract, "base")]

    def of_trained(self, run: Run, trained: Trained) -> list[Row]:
        """With the recorded instructions, and with others where the data hold any."""
        return self.of_policy(run, trained, name="fine_tuned")[self.section]

    def of_policy(self, run: Run, trained: Trained, *, name: str) -> dict[str, list[Row]]:
        """The same for any policy over the run's data."""
        policy, others = trained.policy, other_sentences(run.data.instructions)
        rows = [_own_row(run, policy, name)]
        if others:
            rows.append(_own_row(run, policy, "wrong_instruction", words=others.__getitem__))
        return {self.section: rows}

    def in_order(self, rows: Sequence[Row]) -> list[Row]:
        """The base first."""
        return sorted(rows, key=lambda row: place_of(row["policy"]))

    def replayed(self, run: Run) -> Finding:
        """Not tried."""
        return not_replayed()

    def draw(self, run: Run, trained: Trained, rows: Sequence[Row]) -> None:
        """`held_out.png`: errors along the chunk; `actions.png`: recorded and predicted actions of some held-out episodes."""
        body = trained.policy.contract.embodiment
        plot_errors(rows, run.folder / ERRORS_PLOT, seconds=1 / body.control_hz, title=run.folder.name)
        episodes = run.data.validation.episodes[: run.cfg.evaluation.drawn]
        drawn = [_drawn(run.data, trained.policy, episode) for episode in episodes]
        if drawn:
            plot_actions(drawn, run.folder / ACTIONS_PLOT, body=body, title=run.folder.name)

    def number(self, results: Mapping[str, Any]) -> float:
        """The trained policy's mean error, as a share of an action's range in the training data."""
        return of_the_trained(results[self.section])["error"]


def _own_row(run: Run, policy: LocalPolicy, name: str, *, words: Say = str) -> Row:
    """A policy of the run itself: what is recorded has a probability, where it gives any."""
    samples = _held_out(run)
    row = _row(samples, run, policy, policy.contract, name, words=words)
    likely = mean_log_probability(policy, samples, rows=run.cfg.evaluation.rows, say=words)
    return row if likely is None else row | {"log_probability": likely}


def _held_out(run: Run) -> list[dict[str, Any]]:
    """The frames on which policies are compared, each read once; their pictures are those that the data set keeps."""
    chosen = EvenlySpaced(run.data.validation, count=run.cfg.evaluation.frames)
    return [chosen[place] for place in range(len(chosen))]


def _row(
    samples: Sequence[dict[str, Any]], run: Run, policy: LocalPolicy, contract: Contract, name: str, *, words: Say = str
) -> Row:
    """A policy on held-out frames; `contract` is the run's, by whose data errors are measured."""
    found = compared(policy, samples, run.data.validation.embodiment, rows=run.cfg.evaluation.rows, say=words)
    return open_loop_row(found, contract, policy=name)


def _drawn(data: Data, policy: LocalPolicy, episode: int) -> Drawn:
    """An episode, or its beginning: chunks that begin where the one before has been played."""
    part, step = data.validation.select([episode]), policy.contract.execute_steps
    recorded, chunks = [], {}
    for start in range(0, len(part), step)[:_LONGEST]:
        frame = part[start]
        recorded.append(frame["actions"][:step][frame["action_mask"].all(axis=-1)[:step]])
        chunks[start] = policy.act([observation_in(frame, part.embodiment)])[0]
    done = np.concatenate(recorded)
    return Drawn(episode, done, {start: chunk[: len(done) - start] for start, chunk in chunks.items()})
