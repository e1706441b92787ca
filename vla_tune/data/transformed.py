"""Raw samples behind a pipeline."""

from dataclasses import dataclass
from typing import Any

from vla_tune.data.mixture import Samples
from vla_tune.data.transforms import Transform


@dataclass(frozen=True, eq=False)
class Transformed:
    """A map-style dataset of pipelined samples; an error in the pipeline names episode and frame."""

    samples: Samples
    pipeline: Transform

    def __len__(self) -> int:
        """As many as there are raw samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample, ready for `collate`.

        Raises:
            ValueError: a step refuses it; episode and frame are named.
        """
        sample = self.samples[index]
        try:
            return self.pipeline(sample)
        except ValueError as error:
            episode, frame = sample["index"]
            raise ValueError(f"episode {episode}, frame {frame}: {error}") from error
