"""Text must not be taken for actions."""

from collections.abc import Iterable

from vla_tune.schema import Contract, filled
from vla_tune.tokens.base import action_tokenizer
from vla_tune.tokens.prompt import SPACE_PIECE, Processor, text_tokenizer


def check_collisions(contract: Contract, instructions: Iterable[str], processor: Processor) -> None:
    """Refuse action codes that the prompt itself has, with any of the `instructions`: an id cannot mean a word and an action.

    The last 1024 ids of Llama's vocabulary are rare signs; 2048 codes reach down to the `?` (29973) of OpenVLA's own prompt.

    Raises:
        ValueError: there is such an id; some are named, with their instruction.
    """
    tokenizer, tokens = text_tokenizer(processor), action_tokenizer(contract.action_tokens)
    codes = set(tokens.allowed_ids.tolist())
    marks = (tokenizer.convert_tokens_to_ids(SPACE_PIECE), tokenizer.eos_token_id, tokenizer.bos_token_id)
    ends = {mark for mark in marks if isinstance(mark, int)}
    for instruction in instructions:
        text = filled(contract.prompt, instruction=instruction.lower())
        if shared := sorted(codes & {*tokenizer.encode(text, add_special_tokens=True), *ends}):
            named = ", ".join(f"{index} = {tokenizer.convert_ids_to_tokens(index)!r}" for index in shared[:5])
            raise ValueError(
                f"the prompt for {instruction!r} has ids that are action codes ({named}); the {len(codes)} codes are "
                f"{min(codes)} to {max(codes)}: choose fewer codes (tokens=fast_256 or uniform_256), a model with a larger "
                "vocabulary, or say the instruction in other words."
            )
