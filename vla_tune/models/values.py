"""The loss of models that say the values of a chunk, not codes."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from vla_tune.data.collate import Batch
from vla_tune.models.base import Loss


def absolute_errors(predict: Callable[[Batch], Float[Tensor, "B T A"]], batch: Batch, *, horizon: int) -> Loss:
    """|prediction - action| of each value within the episode, row by row, in normalised units.

    Raises:
        ValueError: the chunks have another length than the contract's `horizon`; nothing is predicted then.
    """
    assert batch.actions is not None, "a batch without actions has no loss"
    assert batch.action_mask is not None
    if batch.actions.shape[1] != horizon:
        raise ValueError(f"the dataset gives chunks of {batch.actions.shape[1]} actions, the contract says {horizon}.")
    errors = (predict(batch) - batch.actions).abs()
    return Loss(errors[batch.action_mask], None, batch.action_mask.nonzero()[:, 0])
