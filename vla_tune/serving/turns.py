"""The questions of one connection, answered in their order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

type Answer = Callable[[], Awaitable[dict[str, Any]]]
"""Gives the message to send, or raises why there is none."""


@dataclass(eq=False)
class Question:
    """What one message asked."""

    begun: float
    """Seconds of the clock when it came."""
    enveloped: bool = False
    """Without an envelope the client is openpi's, which understands only a text and the end of the connection as an error."""
    number: int | None = None
    """What the client calls it; repeated in the answer."""
    answer: Answer | None = None
    """None until it is known."""
    served: Callable[[], object] = lambda: None
    """What is left to do when the answer is on its way."""


@dataclass(eq=False)
class Turns:
    """A later question that is answered first waits for the earlier ones; clients that number nothing rely on it.

    Args:
        most: Questions that may be open; one more waits to be asked.
    """

    most: int
    _open: deque[Question] = field(default_factory=deque)
    _answered: asyncio.Queue[Question] = field(default_factory=asyncio.Queue)
    _free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.most)

    async def ask(self, question: Question) -> None:
        """Its turn is after all that were asked before."""
        await self._free.acquire()
        self._open.append(question)

    def answer(self, question: Question, answer: Answer) -> None:
        """The answer to a question that was asked."""
        question.answer = answer
        while self._open and self._open[0].answer is not None:
            self._answered.put_nowait(self._open.popleft())

    async def next(self) -> Question:
        """The oldest question, when it is answered."""
        question = await self._answered.get()
        self._free.release()
        return question
