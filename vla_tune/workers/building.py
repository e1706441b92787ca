"""Objects of plain data, where Hydra is not installed: `_target_`, `_args_` and `_partial_` mean what they mean to it."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

_WORDS = ("_target_", "_args_", "_partial_")


def built(node: Any) -> Any:
    """What `node` of the user's own configuration describes, with all that lies in it.

    Raises:
        ValueError: it names something that is not there, or holds another word of Hydra's.
    """
    if isinstance(node, list):
        return [built(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    if other := [key for key in node if str(key).startswith("_") and key not in _WORDS]:
        raise ValueError(f"{other[0]!r} cannot be said of an environment in an interpreter of its own: {', '.join(_WORDS)} can.")
    given = {key: built(child) for key, child in node.items() if key not in _WORDS}
    if "_target_" not in node:
        return given
    made = partial(_named(node["_target_"]), *built(list(node.get("_args_", ()))), **given)
    return made if node.get("_partial_") else made()


def _named(path: str) -> Any:
    """What lies at a dotted path of modules and names."""
    names = path.split(".")
    for end in range(len(names) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(names[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise  # something that it imports
            continue
        for name in names[end:]:
            if not hasattr(found, name):
                raise ValueError(f"{path} is not there: {'.'.join(names[:end])} has no {name!r}.")
            found = getattr(found, name)
        return found
    raise ValueError(f"{path} is not there: no module of its names is installed in this interpreter.")
