"""One sitting of a run: step after step until the last, or until it is stopped."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace

from torch.optim.lr_scheduler import LRScheduler

from vla_tune.training.feed import Fetched
from vla_tune.training.interruption import Interruption, TrainingInterrupted
from vla_tune.training.loggers import Logger
from vla_tune.training.metrics import ValidationStopped
from vla_tune.training.non_finite import NonFiniteLossError, OnNonFinite
from vla_tune.training.settings import check_whole
from vla_tune.training.state import Clock, Progress
from vla_tune.training.update import Skipped, Updated
from vla_tune.training.workers import WorkerDiedError


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is done in each step: move, measure, log, save."""

    advance: Callable[..., Updated]
    measure: Callable[..., dict[str, float]]
    on_non_finite: OnNonFinite
    schedule: LRScheduler
    save: Callable[[Progress], None]
    loggers: Sequence[Logger]
    steps: int
    validate_every: int
    save_every: int
    resume_command: str

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "save_every"):
            check_whole(name, getattr(self, name), least=1)

    def run(self, progress: Progress, feeding: AbstractContextManager[Iterator[Fetched]]) -> Progress:
        """From `progress` to the last step.

        Raises:
            TrainingInterrupted: a signal came; the step in progress is done and saved.
            WorkerDiedError: a worker was killed; all steps that were done are saved.
        """
        with Interruption() as interruption, _closing(self.loggers):
            clock = Clock(progress)
            progress = self._measured(progress, clock, interruption)  # what a stop cut short
            if progress.unmeasured is None:
                progress = self._stepping(progress, feeding, clock, interruption)
            if interruption.requested or progress.step < self.steps or progress.unmeasured is not None:
                raise self._interrupted(progress)
        return progress

    def _stepping(
        self, progress: Progress, feeding: AbstractContextManager[Iterator[Fetched]], clock: Clock, interruption: Interruption
    ) -> Progress:
        saved = progress.step
        try:
            with feeding as fetches:
                for fetched in fetches:
                    progress = self._step(progress, fetched, clock, interruption)
                    if self._is_kept(progress) or interruption.requested:
                        self.save(progress)
                        saved = progress.step
                    if interruption.requested:
                        break
        except WorkerDiedError as died:  # between two steps: nothing is half done
            if progress.step > saved:
                self.save(progress)
            if not interruption.requested:
                raise self._without_workers(died, progress) from None
        return progress

    def _step(self, progress: Progress, fetched: Fetched, clock: Clock, interruption: Interruption) -> Progress:
        start = time.perf_counter()
        updated = self._attempt(progress, fetched)
        rates = _rates(fetched, update_seconds=time.perf_counter() - start, schedule=self.schedule)
        self.schedule.step()
        progress = replace(progress.advanced(updated.loss, clock), unmeasured=updated.metrics | rates)
        if progress.step % self.validate_every == 0 or progress.step == self.steps:
            return self._measured(progress, clock, interruption)
        return self._logged(progress, {}, clock)

    def _attempt(self, progress: Progress, fetched: Fetched) -> Updated | Skipped:
        try:
            return self.advance(fetched.batches, step=progress.step + 1)
        except NonFiniteLossError as error:
            self.on_non_finite(error, skipped=progress.skipped)
            return Skipped()

    def _measured(self, progress: Progress, clock: Clock, interruption: Interruption) -> Progress:
        """Validated and logged; or as it was, if a stop was asked for meanwhile: the next session begins with that."""
        if progress.unmeasured is None:
            return progress
        try:
            validated = self.measure(stopped=lambda: interruption.requested)
        except ValidationStopped:
            return progress
        return self._logged(progress, validated, clock)

    def _logged(self, progress: Progress, validated: dict[str, float], clock: Clock) -> Progress:
        assert progress.unmeasured is not None
        for logger in self.loggers:
            logger.log(progress.step, progress.unmeasured | validated)
        return progress.measured(validated, clock)

    def _is_kept(self, progress: Progress) -> bool:
        return progress.step % self.save_every == 0 or progress.step in (self.steps, progress.best_step)

    def _interrupted(self, progress: Progress) -> TrainingInterrupted:
        done = f"step {progress.step} of {self.steps} is saved" if progress.step else "nothing was done yet"
        message = f"Interrupted; {done}. Continue with:\n  {self.resume_command}"
        with suppress(OSError):  # the terminal may be what went
            print(message, file=sys.stderr)
        return TrainingInterrupted(message)

    def _without_workers(self, died: WorkerDiedError, progress: Progress) -> WorkerDiedError:
        done = f"step {progress.step} is saved" if progress.step else "no step was done"
        remedy = "If memory (or /dev/shm) was short, take fewer training.workers."
        return WorkerDiedError(f"{died}; {done}. {remedy} Continue with: {self.resume_command}")


@contextmanager
def _closing(loggers: Sequence[Logger]) -> Iterator[None]:
    with ExitStack() as stack:
        for logger in loggers:
            stack.enter_context(closing(logger))
        yield


def _rates(fetched: Fetched, *, update_seconds: float, schedule: LRScheduler) -> dict[str, float]:
    seconds = fetched.seconds + update_seconds
    return {
        "train/learning_rate": float(schedule.get_last_lr()[0]),
        "train/samples_per_second": sum(map(len, fetched.batches)) / seconds,
        "train/data_share": fetched.seconds / seconds,
    }
