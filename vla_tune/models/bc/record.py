"""What a contract keeps of a behaviour cloner: how pictures and words become numbers."""

from dataclasses import dataclass
from typing import Literal

from vla_tune.models.family import own_record
from vla_tune.schema import Contract, bounded

FAMILY = "bc"
LEAST_SIZE = 32
"""Pixels: the network looks at an eighth of each side, in squares of four."""


@dataclass(frozen=True, kw_only=True)
class BCRecord:
    """How a robot's samples become the inputs of a behaviour cloner; it speaks no codes."""

    family: Literal["bc"]
    size: int
    """Every picture becomes a square of so many pixels, by the mean colour of what each of them covers."""
    words: Literal["crc32"]
    """A word is the number that this sum makes of its small letters in UTF-8."""


def record_of(contract: Contract, *, source: str = "contract") -> BCRecord:
    """The part of a contract that a behaviour cloner reads.

    Raises:
        ValueError: it is another family's, a field is missing, unknown, of the wrong type or without sense.
    """
    record = own_record(contract, BCRecord, family=FAMILY, source=source)
    bounded(source, "height", record.size, least=LEAST_SIZE)
    return record
