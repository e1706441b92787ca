"""Answers come in the order of the questions, whenever they are known."""

import asyncio
from functools import partial
from itertools import permutations

import pytest

from vla_tune.serving.connection import Question, Turns


async def said(number: int) -> dict[str, int]:
    return {"number": number}


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_answers_keep_the_order_of_the_questions(order: tuple[int, ...]):
    async def main() -> None:
        turns, questions = Turns(3), [Question(float(number)) for number in range(3)]
        for question in questions:
            await turns.ask(question)
        for number in order:
            turns.answer(questions[number], partial(said, number))
        for question in questions:
            assert await asyncio.wait_for(turns.next(), 60) is question

    asyncio.run(main())


def test_one_question_too_many_waits_until_one_is_answered():
    async def main() -> None:
        turns, first, second = Turns(1), Question(0.0), Question(1.0)
        await turns.ask(first)
        asking = asyncio.create_task(turns.ask(second))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asking.done()
        turns.answer(first, partial(said, 0))
        await turns.next()
        await asyncio.wait_for(asking, 60)

    asyncio.run(main())
