"""Text must not be taken for actions."""

from collections.abc import Sequence

from vla_tune.tokens.base import ActionTokenizer
from vla_tune.tokens.prompt import Processor, text_tokenizer


def check_collisions(prompt: Sequence[int], instruction: str, tokens: ActionTokenizer, processor: Processor) -> None:
    """Refuse action codes that the ids of the `prompt` for `instruction` hold: an id cannot mean a word and an action.

    The last 1024 ids of Llama's vocabulary are rare signs; 2048 codes reach down to the `?` (29973) of OpenVLA's own prompt.

    Raises:
        ValueError: there is such an id; some are named.
    """
    tokenizer, codes = text_tokenizer(processor), set(tokens.allowed_ids.tolist())
    ends = {mark for mark in (tokenizer.eos_token_id, tokenizer.bos_token_id) if isinstance(mark, int)}
    if shared := sorted(codes & {*prompt, *ends}):
        named = ", ".join(f"{index} = {tokenizer.convert_ids_to_tokens(index)!r}" for index in shared[:5])
        raise ValueError(
            f"the prompt for {instruction!r} has ids that are action codes ({named}); the {len(codes)} codes are "
            f"{min(codes)} to {max(codes)}: choose fewer codes (tokens=fast_256 or uniform_256), a model with a larger "
            "vocabulary, or say the instruction in other words."
        )
