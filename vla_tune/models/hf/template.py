"""Chat templates are programs of a checkpoint's author: what they may do is bounded before one is run."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

_LONGEST, _DEEPEST = 64 * 1024, 4
"""Characters, and loops in each other; the published templates have 8 k and three."""
_REPEATING = ("range", "lipsum")
_FILLING = ("center", "format", "indent", "wordwrap")


def check_template(template: Any, source: str) -> None:
    """Refuse a template that could take time or memory without end: it counts, repeats or pads, or its loops lie deep.

    Raises:
        ValueError: naming what it does.
    """
    for text in template.values() if isinstance(template, Mapping) else [template] if template else ():
        if len(text) > _LONGEST:
            raise ValueError(f"{source}: its chat template has {len(text):,} characters, at most {_LONGEST:,} are run.")
        if (fault := _fault(text)) is not None:
            raise ValueError(f"{source}: its chat template {fault}, which no conversation needs: download it again.")


def _fault(text: str) -> str | None:
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (TemplateSyntaxError, RecursionError):
        return None  # it is not run either; tags of transformers' own are read there
    if any(True for _ in tree.find_all((nodes.Mul, nodes.Pow))):
        return "multiplies"
    if any(name.name in _REPEATING for name in tree.find_all(nodes.Name)):
        return f"calls one of {', '.join(_REPEATING)}"
    if any(each.name in _FILLING for each in tree.find_all(nodes.Filter)):
        return f"pads by one of {', '.join(_FILLING)}"
    if any(isinstance(each.left, nodes.Const) and isinstance(each.left.value, str) for each in tree.find_all(nodes.Mod)):
        return "formats a text"
    return "has loops in loops" if _depth(tree) > _DEEPEST else None


def _depth(node: nodes.Node) -> int:
    """Loops in each other."""
    return isinstance(node, nodes.For) + max((_depth(child) for child in node.iter_child_nodes()), default=0)
