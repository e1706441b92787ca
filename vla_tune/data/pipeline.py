"""The one place where the steps between a dataset and a model are written down."""

from typing import Literal

from transformers import ProcessorMixin

from vla_tune.data.normalize import NormalizeActions, NormalizeState, Scale
from vla_tune.data.processor import ProcessorPrompt, processor_prompt
from vla_tune.data.relative import RelativeActions, relative_parts
from vla_tune.data.transforms import (
    Compose,
    EncodeActions,
    NormalizePixels,
    PrependLocation,
    ResizeImages,
    SelectCameras,
    Transform,
)
from vla_tune.schema import (
    CONTRACT_VERSION,
    ActionTokens,
    Contract,
    Embodiment,
    InputRule,
    ProcessorRule,
    Statistics,
    check_contract,
)
from vla_tune.tokens import ActionTokenizer, CausalPrompt, ParallelPrompt, Processor, action_tokenizer


def build_pipeline(contract: Contract, processor: Processor) -> Compose:
    """The pipeline that the contract describes, for training and for the robot alike.

    It takes the raw sample dict {camera key: uint8 [H W 3], state key: float32 [S], "instruction": str} and, in training,
    "actions" float32 [T A] in robot units and "action_mask" bool [T A]; without actions the steps on them do nothing. It gives
    `pixel_values` [V C H W] (or `vision_inputs` and `token_inputs`, where the model brings its own processor), `state` [S],
    `input_ids`, `labels`, `placeholders` [L], `prompt_length` and, in training, normalised `actions`; `Compose.inverse` leads
    back to robot units.

    Raises:
        ValueError: relative actions have no state to be relative to, or the processor is not that of the contract.
    """
    body, tokens = contract.embodiment, action_tokenizer(contract.action_tokens)
    steps: list[Transform] = [
        SelectCameras(body.cameras),
        *image_steps(contract),
        *relative_step(body),
        NormalizeState(Scale(contract.statistics.state), body.state_key),
        NormalizeActions(Scale(contract.statistics.action)),
        EncodeActions(tokens, contract.horizon),
        PrependLocation(contract.location_codes, contract.action_tokens.vocabulary_size),
        prompt_step(contract, tokens, processor),
    ]
    return Compose(tuple(steps))


def image_steps(contract: Contract) -> tuple[Transform, ...]:
    """The steps that make pixels; none where the model's own processor does, together with the prompt."""
    rule, roles = contract.image, tuple(camera.role for camera in contract.embodiment.cameras)
    return () if isinstance(rule, ProcessorRule) else (ResizeImages(rule), NormalizePixels(rule, roles))


def prompt_step(
    contract: Contract, tokens: ActionTokenizer, processor: Processor
) -> CausalPrompt | ParallelPrompt | ProcessorPrompt:
    """The step that makes ids: the contract's way of decoding decides where codes stand."""
    if isinstance(contract.image, ProcessorRule):
        return processor_prompt(contract, contract.image, tokens, processor)
    if isinstance(processor, ProcessorMixin):
        raise ValueError("the contract was made for a model without a processor of its own: load the checkpoint that it names.")
    if contract.decoding == "autoregressive":
        return CausalPrompt(processor, contract.prompt, contract.location_codes)
    num_codes = contract.location_codes + tokens.num_codes(contract.horizon, contract.embodiment.action_dimension)
    return ParallelPrompt(processor, contract.prompt, num_codes)


def relative_step(body: Embodiment) -> tuple[RelativeActions, ...]:
    """The step that makes actions relative, if any group is; the statistics describe its output."""
    parts = relative_parts(body)
    return (RelativeActions(parts, body.state_key),) if parts else ()


def make_contract(
    embodiment: Embodiment,
    *,
    statistics: Statistics,
    image: InputRule,
    prompt: str,
    action_tokens: ActionTokens,
    horizon: int,
    execute_steps: int,
    location_codes: int,
    decoding: Literal["parallel", "autoregressive", "regression"],
    precision: Literal["bf16", "fp32"],
) -> Contract:
    """A contract of the present version.

    Raises:
        ValueError: its parts do not fit each other (`check_contract`).
    """
    contract = Contract(
        version=CONTRACT_VERSION,
        embodiment=embodiment,
        horizon=horizon,
        execute_steps=execute_steps,
        prompt=prompt,
        image=image,
        action_tokens=action_tokens,
        location_codes=location_codes,
        decoding=decoding,
        precision=precision,
        statistics=statistics,
    )
    check_contract(contract, f"the contract for {embodiment.name}")
    return contract
