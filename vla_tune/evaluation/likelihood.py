"""How likely recorded chunks are to a policy that says codes: it tells two policies apart whose errors are alike."""

from collections.abc import Iterator

import numpy as np

from vla_tune.data.transforms import Samples
from vla_tune.evaluation.open_loop import Say
from vla_tune.models.capabilities import GivesLogProbabilities
from vla_tune.models.forward import bucket, passes
from vla_tune.policy import LocalPolicy


def mean_log_probability(policy: LocalPolicy, samples: Samples, *, rows: int, say: Say = str) -> float | None:
    """Of the recorded chunks, as the codes that they are to `policy`, in nats; None where it gives actions no probability.

    Numbers of policies with the same codes and statistics can be compared, and no others.

    Args:
        policy: whose pipeline reads the samples, and makes codes of their actions.
        samples: recorded frames with the chunks that follow.
        rows: of them at a time, whose pictures alone are in memory.
        say: what the policy is told in the place of the recorded instruction.
    """
    model = policy.model
    if not isinstance(model, GivesLogProbabilities) or not len(samples):
        return None
    found = [
        policy.forward(model.log_probabilities, [seen[index] for index in members]).cpu().numpy()
        for seen in _seen(policy, samples, rows, say)
        for members in passes([bucket(sample) for sample in seen], rows)
    ]
    return float(np.concatenate(found).mean())


def _seen(policy: LocalPolicy, samples: Samples, rows: int, say: Say) -> Iterator[list[dict]]:
    for start in range(0, len(samples), rows):
        frames = [samples[place] for place in range(start, min(start + rows, len(samples)))]
        yield [policy.pipeline(frame | {"instruction": say(frame["instruction"])}) for frame in frames]
