"""Environments of one task are made once."""

import pickle
from functools import partial

import gymnasium

from vla_tune.evaluation import rollout
from vla_tune.evaluation.shelf import Shelf
from vla_tune.execution import OpenLoop


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
    assert pickle.loads(pickle.dumps(Shelf(World))) is World


def test_evaluations_in_turn_are_those_of_new_environments(walker, line, body):
    play = partial(rollout, walker, suite="line", task="walk", episodes=4, embodiment=body, num_envs=2, execution=OpenLoop())
    with Shelf(line) as shelf:
        found = [play(make, seed=seed) for seed in (0, 1) for make in (shelf, line)]
    assert found[0] == found[1] != found[2] == found[3]
