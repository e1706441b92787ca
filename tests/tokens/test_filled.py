"""What stands around an instruction."""

from vla_tune.tokens.prompt import filled


def test_an_instruction_is_put_in_as_it_stands():
    assert filled("a {instruction} b {state}", instruction="{state} {0.x}", state="1 2") == "a {state} {0.x} b 1 2"
