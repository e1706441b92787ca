"""What a dataset calls the dimensions of state and action, kept with the embodiment."""

from collections.abc import Sequence
from dataclasses import replace

from vla_tune.schema import Embodiment, Group, dimension_names


def with_names(body: Embodiment, state: Sequence[str] | None, action: Sequence[str] | None, *, source: str) -> Embodiment:
    """`body` with the names that the dataset's columns bear.

    Names that are not one for each dimension (an axis's, such as `motors`) or not all different say nothing, and what the
    embodiment itself says stays.

    Raises:
        ValueError: the embodiment names its dimensions, and the dataset in another order or otherwise.
    """
    return replace(
        body,
        state=_named(body.state, state, f"{source}: {body.state_key!r}"),
        action=_named(body.action, action, f"{source}: {body.action_key!r}"),
    )


def check_one_robot(bodies: Sequence[Embodiment], sources: Sequence[str]) -> None:
    """Refuse to mix datasets whose dimensions bear other names, or bear them in another order.

    Raises:
        ValueError: naming two of them, and their dimensions.
    """
    for body, source in zip(bodies, sources, strict=True):
        for column in ("state", "action"):
            here, there = (dimension_names(getattr(one, column)) for one in (body, bodies[0]))
            if here != there:
                raise ValueError(
                    f"{source} has the {column} dimensions {', '.join(here)}, {sources[0]} has {', '.join(there)}: they would be "
                    "mixed by place. Write the columns in one order; if they mean the same, correct the names in meta/info.json."
                )


def _named(groups: tuple[Group, ...], names: Sequence[str] | None, source: str) -> tuple[Group, ...]:
    dimension = sum(group.dimension for group in groups)
    if names is None or len(names) != dimension or len(set(names)) != dimension or not all(name.strip() for name in names):
        return groups
    if groups and groups[0].names:
        if (said := dimension_names(groups)) != list(names):
            raise ValueError(f"{source} has the dimensions {', '.join(names)}, the embodiment names {', '.join(said)}: correct it.")
        return groups
    ends = [sum(group.dimension for group in groups[: place + 1]) for place in range(len(groups))]
    return tuple(replace(group, names=tuple(names[end - group.dimension : end])) for group, end in zip(groups, ends, strict=True))
