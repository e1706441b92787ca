"""Everything that a batch could trip over, looked at before the first step and named by episode and frame."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from vla_tune.data.augmentation import sentences
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.folder import leave_out
from vla_tune.data.pipeline import ModelInputs
from vla_tune.data.sources import Data
from vla_tune.schema import ColumnStatistics, Contract, Group, dimension_names, placed

LOOKED_AT_BYTES = 4 * 1024**3
_log = logging.getLogger(__name__)
_NEAR = 0.25
"""Of a gripper's range: how near its values come to an end that they reach."""
_BEYOND = 0.05
_TURN = 2 * math.pi
_ODD: Mapping[str, Callable[[float], bool]] = {"deg": lambda largest: largest <= _TURN, "rad": lambda largest: largest > 2 * _TURN}
_OTHER = {"deg": "rad", "rad": "deg"}
_MOST = 0.9
"""Share of the episodes."""


def check_data(data: Data, contract: Contract, inputs: ModelInputs) -> None:
    """Look at every sentence, every picture's header and the range of every dimension; nothing is decoded.

    What looks odd and may be right, such as a gripper that is never closed, is a warning.

    Raises:
        ValueError: a sentence is empty or no prompt can be made of it, no episode says what is paraphrased, a picture has another
            size or cannot be read, or numbers that are not scaled leave [-1, 1]; dataset, episode and frame, or the dimension, are
            named with the remedy.
    """
    parts = tuple({id(part): part for part in (*data.actions.parts, data.validation)}.values())
    for part, row, sentence in _sentences(parts):
        try:
            inputs.check(sentence)
        except ValueError as error:
            episode, frame = part.frames.episode[row], part.frames.frame[row]
            raise ValueError(
                f"{part.root}: episode {episode}, frame {frame}: {error} Correct meta/tasks.parquet, or {leave_out(episode)}."
            ) from None
    for sentence in sentences(contract.augmentation, data.instructions):
        inputs.check(sentence)
    check_ranges(contract)
    for warning in gripper_warnings(data.actions.parts, data.statistics.action):
        _log.warning("%s", warning)
    for warning in unit_warnings(contract):
        _log.warning("%s", warning)
    for part in parts:
        check_headers(part)


def check_headers(data: Demonstrations) -> None:
    """Read what every picture and video says of itself; of more than 4 GiB of data, evenly spaced episodes, and that is told.

    Raises:
        ValueError: one has another size than the embodiment says, or is no picture of colours; it is named.
    """
    share = min(1.0, LOOKED_AT_BYTES / sum(file.path.stat().st_size for file in data.frames.files))
    places = np.linspace(0, len(data.episodes) - 1, max(1, round(share * len(data.episodes)))).astype(int)
    rows = data.rows[np.isin(data.frames.episode[data.rows], np.array(data.episodes)[places])]
    if len(places) < len(data.episodes):
        _log.warning("%s: pictures of %d of %d episodes are looked at before training.", data.root, len(places), len(data.episodes))
    for images in data.images.values():
        images.source.check(rows.tolist())


def check_ranges(contract: Contract) -> None:
    """Refuse actions that are not scaled and leave [-1, 1], where they would be clipped; such states are told of.

    Raises:
        ValueError: more than a hundredth of a dimension's values lie outside.
    """
    body = contract.embodiment
    for place, name, low, high in _outside(body.action, contract.statistics.action):
        raise ValueError(
            f"action {name} is not scaled (normalization: none) and goes from {low:.4g} to {high:.4g} (1 % of the values left out "
            f"at each end): beyond [-1, 1] it would be clipped. {_scaling('action', body.action[place])}"
        )
    for place, name, low, high in _outside(body.state, contract.statistics.state):
        _log.warning(
            "state %s is not scaled (normalization: none) and goes from %.4g to %.4g: models are made for [-1, 1]. %s",
            name,
            low,
            high,
            _scaling("state", body.state[place]),
        )


def unit_warnings(contract: Contract) -> Iterator[str]:
    """What degrees that are radians look like, and the other way round; absolute values only."""
    body, statistics = contract.embodiment, contract.statistics
    for what, groups, column in (("state", body.state, statistics.state), ("action", body.action, statistics.action)):
        for group, part in placed(groups):
            low, high = min(column.min[part]), max(column.max[part])
            largest, other = max(abs(low), abs(high)), _OTHER.get(group.unit)
            if group.representation == "absolute" and other and largest and _ODD[group.unit](largest):
                yield (
                    f"{what} {group.name} is in {group.unit} and goes from {low:.4g} to {high:.4g}: are these {other}? "
                    f"data.sources.0.units={{{group.name}: {other}}} converts them."
                )


def _scaling(column: str, group: Group) -> str:
    """How a group that is not scaled becomes one that is; the older word beside the newer one would be refused."""
    there = f"{column} group {group.name!r} of the embodiment's file"
    return f"Write `normalization: quantile` at {there}, in place of its `normalization` or `normalized`."


def gripper_warnings(parts: Sequence[Demonstrations], statistics: ColumnStatistics) -> Iterator[str]:
    """What a wrong range or polarity of a gripper looks like; absolute values only."""
    body, column = parts[0].embodiment, 0
    for group in body.action:
        if group.gripper is not None and group.representation == "absolute":
            ends = f"the embodiment says engaged={group.gripper.engaged:g}, released={group.gripper.released:g}"
            for said in _of_gripper(group, statistics.min[column], statistics.max[column]):
                yield f"{group.name}: {said}; {ends}. Is the range of these data another one?"
            first = np.concatenate([part.frames.actions[part.rows[part.first_frames], column] for part in parts])
            engaged = np.abs(first - group.gripper.engaged) < np.abs(first - group.gripper.released)
            if engaged.mean() > _MOST:
                yield f"{group.name}: {engaged.sum()} of {len(first)} episodes begin engaged; {ends}. Are the two exchanged?"
        column += group.dimension


def _of_gripper(group: Group, least: float, most: float) -> Iterator[str]:
    assert group.gripper is not None
    low, high = sorted((group.gripper.engaged, group.gripper.released))
    span = high - low
    if least < low - _BEYOND * span or most > high + _BEYOND * span:
        yield f"the data go from {least:g} to {most:g}, beyond its ends"
    for name, end in (("engaged", group.gripper.engaged), ("released", group.gripper.released)):
        if not least - _NEAR * span <= end <= most + _NEAR * span:
            yield f"in the data, which go from {least:g} to {most:g}, it is never {name}"


def _sentences(parts: Sequence[Demonstrations]) -> Iterator[tuple[Demonstrations, int, str]]:
    """Each sentence of each dataset, with the row that says it first."""
    for part in parts:
        numbers, first = np.unique(part.frames.task[part.rows], return_index=True)
        for number, place in zip(numbers.tolist(), first.tolist(), strict=True):
            yield part, int(part.rows[place]), part.frames.tasks[number]


def _outside(groups: Sequence[Group], column: ColumnStatistics) -> Iterator[tuple[int, str, float, float]]:
    """Unscaled dimensions outside [-1, 1]: the group's place, the dimension's name, 1 % and 99 % quantile."""
    places = [place for place, group in enumerate(groups) for _ in range(group.dimension)]
    kinds = [groups[place].normalization for place in places]
    for place, kind, name, low, high in zip(places, kinds, dimension_names(groups), column.q01, column.q99, strict=True):
        if kind == "none" and (low < -1 or high > 1):
            yield place, name, low, high
