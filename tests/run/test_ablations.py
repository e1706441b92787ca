"""What a policy is tried without."""

from typing import ClassVar

import gymnasium
import numpy as np
import pytest

from vla_tune.run.ablations import Blank, WrongInstruction
from vla_tune.run.evaluate import ablations_of


class World(gymnasium.Env):
    told: ClassVar = {"distractor_instruction": "push it"}
    drawn = 0

    def reset(self, *, seed=None, options=None):
        return self.shown(), self.told

    def step(self, action):
        return self.shown(), 1.0, False, False, self.told | {"success": True}

    def shown(self):
        def draw():
            World.drawn += 1
            return np.full((4, 6, 3), 7, np.uint8)

        return {"images": {"front": np.zeros((2, 2, 3), np.uint8), "wrist": draw}, "instruction": "lift it"}


def test_pictures_are_grey_and_not_drawn_for_it():
    env = Blank(grey=200)(World())
    first, (second, reward, *_, told) = env.reset()[0], env.step(None)
    for shown in (first, second):
        assert {name: (picture.shape, set(picture.flat)) for name, picture in shown["images"].items()} == {
            "front": ((2, 2, 3), {200}),
            "wrist": ((4, 6, 3), {200}),
        }
        assert shown["instruction"] == "lift it"
    assert (reward, told["success"], World.drawn) == (1.0, True, 1)
    with pytest.raises(ValueError, match="grey=256"):
        Blank(grey=256)


def test_a_wrong_instruction_is_tried_where_one_is_told():
    assert WrongInstruction()(World()).reset()[0]["instruction"] == "push it"
    assert WrongInstruction().why_not(World.told) is None
    assert "no info['distractor_instruction']" in str(WrongInstruction().why_not({}))


def test_they_are_chosen_by_name(configuration):
    assert ablations_of(configuration("train")) == {"wrong_instruction": WrongInstruction()}
    assert ablations_of(configuration("train", "ablation=[]")) == {}
    assert ablations_of(configuration("eval", "run=nowhere", "task=lift")) == {}
    both = configuration("train", "ablation=[wrong_instruction,blank_pictures]", "ablation.blank_pictures.grey=0")
    assert ablations_of(both) == {"wrong_instruction": WrongInstruction(), "blank_pictures": Blank(grey=0)}
