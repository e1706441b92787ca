import os
from functools import partial
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_tune.environment import AtTheEnd, Once
from vla_tune.evaluation import episode_seed, in_processes, in_turn, rollout, stage
from vla_tune.evaluation.stage import Rules
from vla_tune.execution import OpenLoop, RecedingHorizon, TemporalEnsemble

LIFT = partial(gymnasium.make, "envs:vla_tune/Tabletop-v0", task="touch", cameras={"front": (64, 64)})
CELL = {"suite": "line", "task": "walk", "seed": 3}


class Sight:
    """A watcher who remembers."""

    def __init__(self, episodes=range(100)):
        self.episodes, self.seen, self.finished = episodes, {}, []

    def looks(self, episode):
        return episode in self.episodes

    def see(self, episode, observation):
        self.seen.setdefault(episode, []).append(observation)

    def finish(self, record):
        self.finished.append(record)


@pytest.mark.parametrize("execution", [OpenLoop(), RecedingHorizon(2), TemporalEnsemble()])
def test_the_number_of_environments_changes_nothing(line, walker, body, execution):
    play = partial(rollout, walker, line, episodes=23, embodiment=body, execution=execution, **CELL)
    runs = [play(num_envs=number) for number in (1, 4, 7, 50)]
    assert all(first == second for first, second in pairwise(runs))
    assert [record.episode for record in runs[0]] == list(range(23))
    assert {record.success for record in runs[0]} == {True, False}
    assert len({record.steps for record in runs[0]}) > 3
    assert len({record.instruction for record in runs[0]}) == 3


def test_a_model_leads_to_the_same_records_at_every_number_of_environments(line, random_policy, body):
    runs = [
        rollout(random_policy, partial(line, 5), episodes=6, embodiment=body, execution=OpenLoop(), num_envs=number, **CELL)
        for number in (1, 4, 7)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_the_tabletop_leads_to_the_same_records_at_every_number_of_environments(body, chaotic):
    runs = [
        rollout(chaotic, LIFT, episodes=9, embodiment=body, execution=OpenLoop(), num_envs=number, **CELL) for number in (1, 4, 7)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len({record.instruction for record in runs[0]}) > 2


@pytest.mark.slow
def test_processes_lead_to_the_same_records(body, chaotic):
    play = partial(rollout, chaotic, LIFT, episodes=5, embodiment=body, execution=OpenLoop(), num_envs=2, **CELL)
    assert play() == play(vectorize=in_processes)


def test_records_tell_what_happened(line, walker, body):
    sight = Sight()
    records = rollout(walker, line, episodes=8, embodiment=body, execution=OpenLoop(), num_envs=3, watcher=sight, **CELL)
    for record in records:
        assert record.seed == episode_seed(3, suite="line", task="walk", episode=record.episode)
        seen = sight.seen[record.episode]
        assert len(seen) == record.steps + 1
        assert {observation.instruction for observation in seen} == {record.instruction}
        start, end = seen[0].state, seen[-1].state
        assert start[0] == 0
        assert record.success == (end[0] > end[1]) == (record.episode_return == 1.0)
        assert record.success or record.steps == 12
    assert sorted(sight.finished, key=lambda record: record.episode) == records


def test_the_mass_outside_the_codes_is_sampled_once_an_episode(line, walker, body):
    asked = []

    class Watched(type(walker)):
        def outside_mass(self, observations):
            asked.append(len(observations))
            return np.array([observation.state[1] for observation in observations], np.float32)

    play = partial(rollout, make_env=line, episodes=8, embodiment=body, execution=OpenLoop(), num_envs=3, **CELL)
    sight = Sight()
    records = play(Watched(), watcher=sight)
    assert sum(asked) == 8
    assert all(record.outside_mass == sight.seen[record.episode][0].state[1] for record in records)
    assert {record.outside_mass for record in play(walker)} == {None}


def test_environments_without_an_episode_stand_still(line, walker, body):
    records = rollout(walker, line, episodes=11, embodiment=body, execution=OpenLoop(), num_envs=8, **CELL)
    assert line.steps_taken == sum(record.steps for record in records)


def test_the_policy_is_asked_once_a_tick_for_those_that_need_a_chunk(line, walker, body):
    slow = partial(line, 6)
    rollout(walker, slow, episodes=1, embodiment=body, execution=RecedingHorizon(2), num_envs=1, **CELL)
    assert sum(walker.batches) == len(walker.batches) <= 3  # at ticks 0, 2, 4
    walker.batches.clear()
    records = rollout(walker, slow, episodes=8, embodiment=body, execution=OpenLoop(), num_envs=4, **CELL)
    assert sum(walker.batches) == sum(-(-record.steps // 3) for record in records)
    assert walker.batches[0] == 4


@pytest.mark.parametrize("filmed", [0, 3])
def test_pictures_are_drawn_for_the_policy_and_for_films_alone(line, walker, body, filmed):
    drawn = []

    class Drawing(gymnasium.ObservationWrapper):
        def observation(self, observation):
            front = observation["images"]["front"]
            return observation | {"images": {"front": lambda: (drawn.append(1), front)[1]}}

    sight = Sight(range(filmed))
    play = partial(rollout, walker, episodes=8, embodiment=body, execution=OpenLoop(), num_envs=3, **CELL)
    records = play(lambda: Drawing(line()), watcher=sight)
    assert records == play(line)
    asked = sum(-(-record.steps // 3) for record in records[filmed:])  # chunks of 3
    assert len(drawn) == asked + sum(record.steps + 1 for record in records[:filmed])
    assert [len(sight.seen[index]) for index in range(filmed)] == [record.steps + 1 for record in records[:filmed]]
    assert sorted(sight.seen) == list(range(filmed))


class OneAtATime:
    """Of the environments that were told something, the one that waited longest or shortest answers."""

    def __init__(self, pool, newest):
        self.pool, self.newest, self.asked = pool, newest, []
        self.size, self.about, self.close = pool.size, pool.about, pool.close
        self.behind, self.start = pool.behind, pool.start

    def ask(self, row, verb, **arguments):
        self.asked.append((row, verb, arguments))

    def answers(self):
        row, verb, arguments = self.asked.pop(-1 if self.newest else 0)
        self.pool.ask(row, verb, **arguments)
        return self.pool.answers()


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_who_is_ready_goes_on_whoever_is_not(line, walker, body, newest, rows):
    def one_at_a_time(*arguments):
        return OneAtATime(in_turn(*arguments), newest)

    play = partial(rollout, walker, line, episodes=11, embodiment=body, execution=OpenLoop(), num_envs=3, **CELL)
    records = play()
    walker.rows = rows
    walker.batches.clear()
    assert play(vectorize=one_at_a_time) == records
    assert set(walker.batches) <= {*range(1, rows + 1), 3}
    assert rows == 1 or walker.batches.count(min(rows, 3)) > len(walker.batches) / 2  # a pass is filled while others go on


@given(seed=st.integers(0, 10**9), suite=st.text(max_size=8), task=st.text(max_size=8))
@settings(max_examples=25)
def test_seeds_are_distinct_and_depend_on_everything(seed, suite, task):
    seeds = [episode_seed(seed, suite=suite, task=task, episode=episode) for episode in range(50)]
    assert len(set(seeds)) == 50
    assert all(0 <= value < 2**32 for value in seeds)
    assert episode_seed(seed + 1, suite=suite, task=task, episode=0) not in seeds
    assert episode_seed(seed, suite=suite + "x", task=task, episode=0) not in seeds
    assert episode_seed(seed, suite=suite, task=task + "x", episode=0) not in seeds
    shifted = partial(episode_seed, seed, episode=0)
    assert shifted(suite=suite + "x", task=task) != shifted(suite=suite, task="x" + task)  # names do not run together


def test_seeds_never_change():
    """First 8 digits of `printf '[0, "tabletop", "lift", 0]' | sha256sum`; another value would make old results incomparable."""
    assert episode_seed(0, suite="tabletop", task="lift", episode=0) == 0x14B77DFD


def test_bad_numbers_are_refused(line, walker, body):
    play = partial(rollout, walker, line, embodiment=body, execution=OpenLoop(), **CELL)
    with pytest.raises(ValueError, match="episodes=0"):
        play(episodes=0, num_envs=1)
    with pytest.raises(ValueError, match="num_envs=0"):
        play(episodes=1, num_envs=0)


class Careless(gymnasium.Wrapper):
    """Ignores its seed."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=None, options=options)


class Mute(gymnasium.Wrapper):
    """Does not tell of success."""

    def step(self, action):
        return *self.env.step(action)[:4], {}


class Blind(gymnasium.ObservationWrapper):
    """Names its camera otherwise."""

    def __init__(self, env):
        super().__init__(env)
        spaces = env.observation_space
        images = gymnasium.spaces.Dict({"side": spaces["images"]["front"]})
        self.observation_space = gymnasium.spaces.Dict({**spaces, "images": images})

    def observation(self, observation):
        return observation | {"images": {"side": observation["images"]["front"]}}


class Short(gymnasium.ActionWrapper):
    """Takes two numbers."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def action(self, action):
        return np.append(action, [0, 0])


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        (Careless, "same seed"),
        (Mute, r"never told info\['success'\]"),
        (Blind, r"cameras \['side'\].*'front'"),
        (Short, r"actions \(2,\).*4 dimensions"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(line, walker, body, wrapper, message):
    with pytest.raises(ValueError, match=message):
        rollout(walker, lambda: wrapper(line()), episodes=2, embodiment=body, execution=OpenLoop(), num_envs=1, **CELL)


class Passing(gymnasium.Wrapper):
    """Goes on to its limit; `goal` says at which steps the goal is reached, `quiet` whether only that is told."""

    def __init__(self, env, goal=(3,), quiet=False, limit=6):
        super().__init__(env)
        self.goal, self.quiet, self.limit = goal, quiet, limit

    def reset(self, *, seed=None, options=None):
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action):
        observation, reward, *_ = self.env.step(action)
        success = self.env.ticks in self.goal
        told = {"success": np.array([success])} if success or not self.quiet else {}
        return observation, reward, False, self.limit is not None and self.env.ticks >= self.limit, told


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize(("goal", "rule", "success"), [((3,), Once(), True), ((3,), AtTheEnd(), False), ((6,), AtTheEnd(), True)])
def test_the_rule_says_what_counts(line, walker, body, quiet, goal, rule, success):
    play = partial(rollout, walker, lambda: Passing(line(), goal, quiet), episodes=4, embodiment=body, execution=OpenLoop(), **CELL)
    for num_envs in (1, 3):
        records = play(num_envs=num_envs, rules=Rules(success=rule))
        assert [(record.success, record.steps) for record in records] == [(success, 6)] * 4


def test_a_success_that_is_never_told_is_no_failure(line, walker, body):
    never = partial(rollout, walker, lambda: Passing(line(), (), True), embodiment=body, execution=OpenLoop(), num_envs=2, **CELL)
    with pytest.raises(ValueError, match="never told"):
        never(episodes=2)


def test_an_episode_without_an_end_is_cut_or_refused(line, walker, body, monkeypatch):
    told = []
    play = partial(rollout, walker, embodiment=body, execution=OpenLoop(), num_envs=2, tell=told.append, **CELL)
    records = play(lambda: Passing(line(), limit=None), episodes=3, rules=Rules(max_steps=7))
    assert [(record.steps, record.success) for record in records] == [(7, True)] * 3
    assert told == ["walk: 3 episodes were cut after max_steps=7 steps."]
    monkeypatch.setattr(stage, "_ENDLESS", 20)
    with pytest.raises(ValueError, match=r"still going on after 20 steps.*evaluation\.max_steps"):
        play(lambda: Passing(line(), limit=None), episodes=3)
    with pytest.raises(ValueError, match="max_steps=0"):
        Rules(max_steps=0)


class Broken(gymnasium.ObservationWrapper):
    """Its simulation breaks down after a step."""

    def observation(self, observation):
        return observation | {"state": observation["state"] * np.float32(1 if self.env.ticks < 1 else np.nan)}


def test_a_state_that_is_not_finite_is_named(line, walker, body):
    with pytest.raises(ValueError, match=r"episode 0, step 1: the environment's state is \[nan"):
        rollout(walker, lambda: Broken(line()), episodes=2, embodiment=body, execution=OpenLoop(), num_envs=1, **CELL)


@pytest.mark.slow
def test_a_process_that_ends_is_told_in_a_line(body, chaotic):
    def dying():  # of this function, for the other process cannot import the tests
        class Dying(gymnasium.Wrapper):
            def step(self, action):
                os._exit(7)

        return Dying(LIFT())

    play = partial(rollout, chaotic, embodiment=body, execution=OpenLoop(), num_envs=2, vectorize=in_processes, **CELL)
    with pytest.raises(ChildProcessError, match=r"process ended \(exit code 7\)"):
        play(dying, episodes=4)
