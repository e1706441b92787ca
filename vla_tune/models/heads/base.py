"""What a head must offer, and what it is told."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from vla_tune.models.base import VLA, ActionModel
from vla_tune.models.heads.codes import ActionSpace
from vla_tune.schema import Contract
from vla_tune.tokens import ActionTokenizer


@runtime_checkable
class Head(Protocol):
    """How hidden states become a loss and actions; it holds no weights, and is made before those are loaded."""

    @property
    def space(self) -> ActionSpace:
        """What a chunk of actions is made of."""
        ...

    def over(self, network: VLA) -> ActionModel:
        """The model that this head and a network are together."""
        ...


def head_of(head: Callable[..., Head], space: ActionSpace, *, decoding: str) -> Head:
    """A head for a chunk of actions; `head` is a class, or a class with the rest of its arguments.

    Raises:
        ValueError: the head decodes in another way than the contract says.
    """
    if decoding_of(head) != decoding:
        raise ValueError(
            f"the contract says decoding={decoding!r}, the head is {decoding_of(head)!r}: choose that of the training run."
        )
    return head(space)


def action_space(contract: Contract, tokenizer: ActionTokenizer, *, stop_id: int) -> ActionSpace:
    """What the contract says about a chunk of actions, in codes of `tokenizer`."""
    return ActionSpace(
        tokenizer=tokenizer,
        horizon=contract.horizon,
        action_dimension=contract.embodiment.action_dimension,
        stop_id=stop_id,
    )


def decoding_of(head: Any) -> str:
    """What a contract calls the decoding of a head class, also where some of its arguments are bound already.

    Raises:
        ValueError: it is no head.
    """
    decoding = getattr(getattr(head, "func", head), "decoding", None)
    if decoding is None:
        raise ValueError(f"head={head!r} says no codes and no values: choose head=parallel, autoregressive or regression.")
    return decoding
