"""Writes the reference pages of commands and options from the comments in `conf/`.

python docs/reference_pages.py
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF, REFERENCE = ROOT / "conf", ROOT / "docs" / "reference"
HIDDEN = ("hydra", "local", "optional local")
_GROUP = re.compile(r"^  - (?P<group>[\w@.]+): (?P<default>.*?)(?:  *# (?P<says>.*))?$")
_KEY = re.compile(r"^(?P<key>\w[\w.]*):(?: (?P<value>.*?))?(?:  *# (?P<says>.*))?$")


def pages() -> dict[str, str]:
    """File below `docs/reference` -> its text."""
    return {"commands.md": _commands(), "options.md": _options()}


def _commands() -> str:
    parts = [
        "# Commands\n\nWhat each command of `scripts/` does, its groups with their defaults, and its own keys. The page is made "
        "from the comments in `conf/` by `docs/reference_pages.py`. A choice is `group=option`, a key `key=value` or "
        "`key.below=value`; `--help` lists them, `--cfg job` prints what is composed, `-m` runs every combination of values with "
        "commas. Options are described in [Options](options.md)."
    ]
    roots = sorted(path.stem for path in CONF.glob("*.yaml"))
    return "\n\n".join([*parts, *map(_command, roots)]) + "\n"


def _command(name: str) -> str:
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    said = ast.get_docstring(ast.parse((ROOT / "scripts" / f"{name}.py").read_text())) or ""
    title, *rest = said.splitlines()
    usage = [f"uv run {line.strip()}" for line in rest if line.strip()]
    groups = [row for row in map(_group_row, lines) if row]
    below = lines[next((number for number, line in enumerate(lines) if number > 1 and not line), len(lines)) :]
    keys = "\n".join(below).strip("\n")
    parts = [f"## {name}", title, "```\n" + "\n".join(usage) + "\n```"]
    if groups:
        parts.append("\n".join(["| group | default | says |", "|---|---|---|", *groups]))
    if "  - train # the same" in "\n".join(lines):
        parts.append("Beside these, all groups and keys of [train](#train).")
    if keys:
        parts.append("Keys of its own, with their defaults (`???` must be said):\n\n```yaml\n" + keys + "\n```")
    return "\n\n".join(parts)


def _group_row(line: str) -> str | None:
    match = _GROUP.match(line)
    if match is None or match["group"].startswith(HIDDEN):
        return None
    default = match["default"].strip()
    shown = "a recipe that fits, if there is one" if "recipe_for" in default else f"`{default}`"
    return f"| {_linked(match['group'])} | {shown} | {_cell(match['says'] or '')} |"


def _linked(group: str) -> str:
    return f"[`{group}=`](options.md#{group.partition('@')[0]})"


def _options() -> str:
    parts = [
        "# Options\n\nEvery option of every group, with what its file in `conf/` says of it. The page is made from these comments "
        "by `docs/reference_pages.py`. An option of your own is a file in a folder of the same name below your `--config-dir`."
    ]
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in HIDDEN)
    return "\n\n".join([*parts, *map(_group, groups)]) + "\n"


def _group(group: str) -> str:
    options = sorted((CONF / group).glob("*.yaml"), key=lambda path: [part.zfill(9) for part in re.split(r"(\d+)", path.stem)])
    rows = [f"| `{path.stem}` | {_cell('; '.join(_said(path)))} |" for path in options]
    used = ", ".join(f"[{root}](commands.md#{root})" for root in _offered(group))
    where = f"Of {used}." if used else "Placed below other groups."
    return "\n\n".join([f"## {group}", where, "\n".join(["| option | says |", "|---|---|", *rows])])


def _offered(group: str) -> list[str]:
    """The commands whose groups it is among."""
    pattern = re.compile(rf"^  - {group}(@[\w.]+)?:", re.MULTILINE)
    return [path.stem for path in sorted(CONF.glob("*.yaml")) if pattern.search(path.read_text())]


def _said(path: Path) -> Iterator[str]:
    """What the comments of an option say, in their order: its command's own remark, whole lines, keys with a remark."""
    inherited, prose, keys, made = list[str](), list[str](), list[str](), ""
    for number, line in enumerate(line for line in path.read_text().splitlines() if not line.startswith("# @package")):
        if line.startswith("# "):
            prose.append(_remark(line) if number == 0 else line[2:])
        elif line.startswith("defaults: ["):
            inherited += [name for name in line[11:].rstrip("]").split(", ") if name != "_self_" and "/" not in name]
        elif (key := _KEY.match(line.strip())) and key["says"]:
            keys.append(key["says"] if key["key"] == "_target_" else f"`{key['key']}`: {key['says']}")
        elif key and key["key"] == "_target_" and not made:
            made = f"`{key['value']}`"
        elif key and inherited and key["value"] and not key["key"].startswith("_"):
            keys.append(f"`{key['key']}: {key['value']}`")
    if inherited:
        yield "as " + ", ".join(f"`{name}`" for name in inherited)
    if text := " ".join(filter(None, prose)):
        yield text
    yield from keys
    if made and not (text or keys):
        yield made


def _remark(line: str) -> str:
    """What stands behind the command of an option's first line, or the line where it names none."""
    if not line.startswith("# python scripts/"):
        return line[2:]
    _, _, remark = line[2:].partition(" # ")
    found = re.search(r"\((.*)\)$", line)
    return remark or (found[1] if found and "'" not in found[1] else "")


def _cell(text: str) -> str:
    """Within one cell of a table, where a name in brackets is no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_") if "`" not in text else _quoted(text)


def _quoted(text: str) -> str:
    parts = text.split("`")
    return "`".join(part.replace("|", "\\|") if place % 2 else _cell(part) for place, part in enumerate(parts))


def write() -> None:
    """Bring the pages up to date."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)


if __name__ == "__main__":
    write()
