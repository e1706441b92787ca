"""Objects in words: two that act differently have other ones."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vla_tune.translation.words import in_words, in_words_without_attributes

HERE = f"<{__name__}"


class Plain:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def do(self) -> None: ...


@dataclass(frozen=True)
class Data:
    of: Any


def test_what_says_nothing_is_told_by_its_attributes():
    assert in_words(Plain(gain=2, of="a")) == f"{HERE}.Plain object, gain=2, of='a'>"
    assert in_words(Plain()) == f"{HERE}.Plain object>"
    inner = Plain(gain=Plain(k=1))
    for whole in (partial(print, inner), Data([inner]), Data({"a": (inner,)}), Plain(of=inner), partial(inner.do), inner.do):
        assert "Plain object, gain=" in in_words(whole)
        assert "Plain object, k=1>>" in in_words(whole)
        assert "0x" not in in_words(whole)
        assert "gain" not in in_words_without_attributes(Data(Plain(gain=1)))


def test_what_speaks_for_itself_keeps_its_words():
    for made in (Data(2), partial(print, Data("x"), sep=""), in_words, {"a": [1.0, None]}):
        assert in_words(made) == in_words_without_attributes(made)


def test_addresses_and_rings_end():
    ring = Plain(rng=np.random.default_rng(0))
    ring.own = ring
    assert in_words(ring) == f"{HERE}.Plain object, rng=Generator(PCG64), own={HERE}.Plain object>>"
