"""What families of language models that speak codes check alike in their part of a contract."""

from math import isclose

from vla_tune.schema import Contract, bounded
from vla_tune.tokens import ActionTokenizer, ActionTokens, action_tokenizer


def tokenizer_of(contract: Contract, tokens: ActionTokens) -> ActionTokenizer:
    """The action tokenizer that a model's part of a contract describes.

    Raises:
        ValueError: it cannot be, is for chunks of another shape, or speaks more or less finely than the contract says.
    """
    tokenizer = action_tokenizer(tokens)
    tokenizer.check(contract.horizon, contract.embodiment.action_dimension)
    if not isclose(tokenizer.resolution, contract.resolution):
        raise ValueError(
            f"contract: resolution={contract.resolution:g}, its codes are {tokenizer.resolution:g} apart: take the contract.json "
            "of the training run again."
        )
    return tokenizer


def check_language(contract: Contract, *, prompt: str, tokens: ActionTokens, decoding: str, source: str) -> None:
    """Refuse a prompt that cannot be filled, and scales whose values codes cannot say.

    Codes, and a state in words, stand for values in [-1, 1]: a third of what is scaled by mean and deviation lies beyond.

    Raises:
        ValueError: naming the field, what it says and what it may say.
    """
    bounded(source, "vocabulary_size", tokens.vocabulary_size)
    check_prompt(prompt, source)
    writes_state = "{state}" in prompt
    if writes_state and not contract.embodiment.state:
        raise ValueError(
            f"{source}: the prompt writes {{state}}, and {contract.embodiment.name} has none: leave it out of the prompt."
        )
    if decoding != "regression" and "mean_std" in contract.statistics.action.normalization:
        raise ValueError(
            f"{source}: actions are scaled by mean_std, decoding={decoding!r} speaks codes, which end at -1 and 1: choose "
            "quantile or min_max for the action groups, or a head that regresses."
        )
    if writes_state and "mean_std" in contract.statistics.state.normalization:
        raise ValueError(
            f"{source}: the state is scaled by mean_std, and the prompt writes it in bins that end at -1 and 1: choose quantile or "
            "min_max for the state groups."
        )


def check_prompt(prompt: str, source: str) -> None:
    """Refuse a template without `{instruction}`, with other braces, or of a length that no model reads.

    Raises:
        ValueError: naming the template.
    """
    bounded(source, "characters of the prompt", len(prompt))
    rest = prompt.replace("{instruction}", "").replace("{state}", "")
    if "{instruction}" not in prompt or "{" in rest or "}" in rest:
        raise ValueError(
            f"{source}: the prompt template {prompt[:200]!r} must hold {{instruction}}, may hold {{state}}, and no others."
        )
