"""Module-name patterns: one rule for adapters, the quantiser and partial fine-tuning."""

import difflib
import re
from collections.abc import Sequence

_MOST_STARS = 4


def name_regex(patterns: Sequence[str], *, within: Sequence[str] = ()) -> str:
    """A regular expression for names that end in one of `patterns`.

    A pattern is the end of a dotted name in whole components, and `*` stands for any characters: `q_proj` is every `q_proj`,
    `layers.0.*_proj` those of the first layer. `within` limits the search to some top-level children. Numbers from the end
    (`layers.-1`) are for `counted` to resolve.
    """
    root = rf"(?=(?:{_alternatives(within)})\.)" if within else ""
    return rf"{root}(?:.*\.)?(?:{_alternatives(patterns)})"


def counted(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The patterns with each number from the end, as in `layers.-1.*`, replaced by the one that it stands for among `names`.

    Raises:
        ValueError: there are not so many.
    """
    return [_counted(pattern, names) for pattern in patterns]


def matching_names(names: Sequence[str], patterns: Sequence[str], *, within: Sequence[str] = ()) -> list[str]:
    """Those of `names` that match, in their order.

    Raises:
        ValueError: a pattern matches nothing; the nearest names are listed. Or it has more stars than can be tried in a moment.
    """
    if not patterns:
        raise ValueError("no pattern was given, so nothing would match: name at least one, e.g. q_proj.")
    if wild := [pattern for pattern in patterns if pattern.count("*") > _MOST_STARS]:
        raise ValueError(
            f"pattern {wild[0][:80]!r} has {wild[0].count('*')} stars, at most {_MOST_STARS} are read: name it shorter."
        )
    patterns = counted(patterns, names)
    for pattern in patterns:
        expression = name_regex([pattern], within=within)
        if not any(re.fullmatch(expression, name) for name in names):
            raise ValueError(_nothing_matches(pattern, names, within))
    expression = name_regex(patterns, within=within)
    return [name for name in names if re.fullmatch(expression, name)]


def _counted(pattern: str, names: Sequence[str]) -> str:
    found = re.search(r"(?<=\.)-\d+(?=\.|$)", pattern)
    if found is None:
        return pattern
    before = re.compile(rf"{name_regex([pattern[: found.start() - 1]])}\.(\d+)(?:\..*)?")
    numbers = sorted({int(match[1]) for name in names if (match := before.fullmatch(name))})
    place = int(found[0])
    if -place > len(numbers) or place == 0:
        raise ValueError(f"pattern {pattern!r}: there are {len(numbers)} of {pattern[: found.start() - 1]!r}, counted from -1.")
    return _counted(f"{pattern[: found.start()]}{numbers[place]}{pattern[found.end() :]}", names)


def _alternatives(patterns: Sequence[str]) -> str:
    return "|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns)


def _nothing_matches(pattern: str, names: Sequence[str], within: Sequence[str]) -> str:
    candidates = [name for name in names if not within or name.split(".")[0] in within] or list(names)
    length = pattern.count(".") + 1
    ends = {".".join(name.split(".")[-length:]): name for name in reversed(candidates)}
    nearest = difflib.get_close_matches(pattern, list(ends), n=3, cutoff=0.0)
    where = f" within {', '.join(within)}" if within else ""
    return f"pattern {pattern!r} matches nothing{where}; the nearest names are {', '.join(ends[end] for end in nearest)}."
