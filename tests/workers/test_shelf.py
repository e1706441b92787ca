"""Environments of one task are made once."""

import pickle

import gymnasium

from vla_tune.workers.shelf import Shelf, clear_here


class World(gymnasium.Env):
    made = closed = 0

    def __init__(self):
        World.made += 1

    def close(self):
        World.closed += 1


def test_what_was_closed_is_given_again():
    World.made = World.closed = 0
    with Shelf(World) as shelf:
        one, other = shelf(), shelf()
        one.close()
        one.close()
        again, another = shelf(), shelf()
        assert again.unwrapped is one.unwrapped is not another.unwrapped
        assert (World.made, World.closed) == (3, 0)
        for env in (again, another, other):
            env.close()
    assert World.closed == 3


def test_sent_elsewhere_a_shelf_is_the_same_there_until_another_arrives():
    World.made = World.closed = 0
    one, other = Shelf(World), Shelf(World)
    for shelf, made in ((one, 1), (one, 1), (other, 2), (other, 2), (one, 3)):
        pickle.loads(pickle.dumps(shelf))().close()
        assert (World.made, World.closed) == (made, made - 1)
    clear_here()
    assert (World.made, World.closed) == (3, 3)
