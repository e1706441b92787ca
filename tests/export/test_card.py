from dataclasses import replace

from vla_tune.export.card import model_card
from vla_tune.schema import Augmentation


def test_a_card_says_what_a_policy_sees_of_a_picture(tiny_contract):
    def card(contract) -> str:
        return model_card("mine", contract, training={}, evaluation=[], checks=[], form="Merged.")

    assert "| as the cameras give them |" in card(tiny_contract)
    assert "| model: image | height 64, width 64, resize resize-naive, center_crop_area 1.0 |" in card(tiny_contract)
    assert "| model: decoding | `parallel` |" in card(tiny_contract)
    rule = Augmentation(crop_area=0.9, brightness=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05, paraphrases={})
    assert "| the middle 0.9 of the area; augmented in training |" in card(replace(tiny_contract, augmentation=rule))


def test_texts_of_a_run_stay_in_their_cells(tiny_contract):
    """A card is shown as a page: what a run says of itself is no page."""
    evil = "x |\n\n# Heading\n<script>alert(1)</script> [free](http://elsewhere)"
    body = replace(tiny_contract.embodiment, name=evil)
    row = {
        "policy": evil,
        "task": "lift",
        "successes": 1,
        "episodes": 1,
        "success_rate": 1.0,
        "wilson_low": 0.2,
        "wilson_high": 1.0,
    }
    contract = replace(tiny_contract, embodiment=body)
    card = model_card("mine", contract, training={"task": evil}, evaluation=[row], checks=["passed"], form="Merged.")
    assert "<script>" not in card
    assert "\n# Heading" not in card
    assert card.count("[free\\](http://elsewhere)") == card.count("free") == 3


def test_open_loop_errors_are_a_table(tiny_contract):
    group = {"unit": "m", "error": 0.0123, "by_step": [0.0123], "by_dimension": [0.0123]}
    row = {"policy": "fine_tuned", "frames": 7, "error": 0.25, "by_step": [0.25], "groups": {"tool": group}}
    card = model_card("mine", tiny_contract, training={}, evaluation=[], open_loop=[row], checks=[], form="Merged.")
    assert "| policy | held-out frames | error, of an action's range | tool [m] |" in card
    assert "| fine_tuned | 7 | 25.00 % | 0.0123 |" in card
    assert "It was not evaluated" not in card
