"""Which of a robot's joints a dimension is: by name, never by place."""

from collections.abc import Mapping, Sequence

from vla_tune.schema import Group, dimension_names


def joints_in_order(keys: Sequence[str] | Mapping[str, str], groups: Sequence[Group], *, what: str) -> tuple[str, ...]:
    """The robot's keys in the order of the dimensions.

    Args:
        keys: Dimension name -> the robot's key; or the keys alone, in any order, where they are the names.
        groups: Of the state or the action.
        what: The keys' name in errors.

    Raises:
        ValueError: the keys are not those of the dimensions, or one stands for two.
    """
    names = dimension_names(groups)
    by_name = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    if set(by_name) != set(names) or len(keys) != len(names):
        said = "the dimensions are" if all(group.names for group in groups) else "no data named the dimensions, so they are"
        pairs = ", ".join(f"{name}: ..." for name in names)
        raise ValueError(f"{what} names {', '.join(keys) or 'nothing'}; {said} {', '.join(names)}: write {{{pairs}}}.")
    if len(set(by_name.values())) < len(names):
        raise ValueError(f"{what} gives one joint to two dimensions: {by_name}.")
    return tuple(by_name[name] for name in names)
