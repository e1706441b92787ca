"""README and the pages of `docs/`: links lead somewhere, commands compose, code compiles, what is made from `conf/` is current."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object

import vla_tune.run.folder  # noqa: F401 (registers the resolvers)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONF = ROOT / "conf"
AT_THE_TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*AT_THE_TOP, *sorted(DOCS.rglob("*.md"))]
BY_NAME = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
MINE = {"mine": ROOT / "tests/run/own_robots/conf", "nowhere": ROOT / "tests/translation/outside/conf"}
"""What pages call a folder of the user's own: `mine`, or `<your folder>` of the crane."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]*scripts/\w+\.py [^`\n]*)`")
_PLACEHOLDER = re.compile(r"<[^>]*>|\.\.\.")
_PATH = re.compile(r"`((?:vla_tune|tests|conf|envs|scripts|docs|plugins|bridges)/[\w./-]+)`")
_DOTTED = re.compile(r"\b(?:vla_tune|envs)(?:\.\w+)+")
_OWN_FILE = re.compile(r"^# (\w+/\w+\.yaml)$", re.MULTILINE)


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each block of code."""
    return ((match[1], match[2]) for match in _FENCE.finditer(text))


def unfenced(text: str) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", text)


def prose(text: str) -> str:
    """A page without code."""
    return re.sub(r"`[^`\n]*`", "", unfenced(text))


def anchor(heading: str) -> str:
    """As Python-Markdown and GitHub name it."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain))


def anchors(text: str) -> set[str]:
    return {anchor(line.lstrip("#")) for line in unfenced(text).splitlines() if line.startswith("#")}


def is_broken(page: Path, target: str) -> bool:
    if target.startswith(("https://", "http://")):
        return False
    path, _, place = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    inside = page in AT_THE_TOP or file.is_relative_to(DOCS)  # a page of the site reaches nothing beside it
    return not (file.exists() and inside and (not place or place in anchors(file.read_text())))


def test_every_link_leads_somewhere():
    links = [(name, target) for name, page in BY_NAME.items() for target in _LINK.findall(prose(page.read_text()))]
    assert len(links) > 100
    assert [(name, target) for name, target in links if is_broken(BY_NAME[name], target)] == []


def test_a_broken_link_is_seen():
    page = DOCS / "index.md"
    assert is_broken(page, "nowhere.md")
    assert is_broken(page, "libero.md#nowhere")
    assert is_broken(page, "../README.md")
    assert not is_broken(page, "libero.md#protocols")


def test_the_table_of_contents_has_every_page():
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert len(listed) >= 20


def test_a_page_opens_with_what_the_reader_gets():
    openings = {path: path.read_text().split("\n\n")[:2] for path in DOCS.rglob("*.md")}
    assert [
        path for path, (title, first) in openings.items() if not title.startswith("# ") or not re.match(r"[A-Z].{50}", first)
    ] == []


def test_pages_made_from_the_configuration_are_current():
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    old = [name for name, text in module.pages().items() if (DOCS / "reference" / name).read_text() != text]
    assert old == [], "run python docs/reference_pages.py"


def test_code_in_pages_compiles_and_names_what_is_there():
    blocks = [(name, code) for name, page in BY_NAME.items() for language, code in fences(page.read_text()) if language == "python"]
    assert len(blocks) > 10
    for name, code in blocks:
        for node in ast.walk(ast.parse(code, name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("vla_tune", "envs"):
                module = import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], name


def test_files_that_pages_name_are_there():
    named = [
        (name, path)
        for name, page in BY_NAME.items()
        if name != "CHANGELOG.md"
        for path in _PATH.findall(unfenced(page.read_text()))
    ]
    assert len(named) > 60
    assert [(name, path) for name, path in named if "conf/local/" not in path and not (ROOT / path).exists()] == []


@pytest.mark.ci  # it imports nearly all there is
def test_objects_that_pages_name_are_there():
    named = {path for name, page in BY_NAME.items() if name != "CHANGELOG.md" for path in _DOTTED.findall(page.read_text())}
    assert len(named) > 60
    for path in sorted(named):
        assert get_object(path) is not None


@dataclass(frozen=True)
class Command:
    script: str
    words: tuple[str, ...]
    config_dir: str | None


def commands(text: str) -> Iterator[Command]:
    """Every command of ours in blocks of code and between backticks; what stands for something of the user's is `nowhere`."""
    lines = [
        line for language, block in fences(text) if language in ("", "bash") for line in block.replace("\\\n", " ").splitlines()
    ]
    for line in [*lines, *_INLINE.findall(unfenced(text))]:
        if "|" in line:  # alternatives, said in words
            continue
        for part in _PLACEHOLDER.sub("nowhere", line).split("&&"):
            if "scripts/" in part and (command := _command(shlex.split(part, comments=True))):
                yield command


def _command(words: list[str]) -> Command | None:
    place = next((number for number, word in enumerate(words) if re.search(r"(^|/)scripts/\w+\.py$", word)), None)
    if place is None:
        return None
    rest, folder, overrides = iter(words[place + 1 :]), None, []
    for word in rest:
        if word == "--config-dir":
            folder = next(rest)
        elif word.startswith("--config-dir="):
            folder = word.partition("=")[2]
        elif "=" in word and not word.startswith("-") and not _stands_for_an_option(word):
            overrides.append(word)
    return Command(Path(words[place]).stem, tuple(overrides), folder)


def _stands_for_an_option(word: str) -> bool:
    """`env=<yours>`, which the user's own folder has."""
    group, _, option = word.partition("=")
    return option == "nowhere" and (CONF / group.partition("@")[0]).is_dir()


def alternatives(words: tuple[str, ...]) -> list[list[str]]:
    """The words of runs of a sweep: each option of a group occurs once, and of a key's values the first."""
    values = []
    for word, one in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        each = [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()] if one.is_sweep_override() else [word]
        values.append(each if (CONF / one.key_or_group).is_dir() else each[:1])
    return [[of[min(number, len(of) - 1)] for of in values] for number in range(max(map(len, values), default=1))]


def own_files(text: str, folder: Path) -> Path:
    """The YAML files that a page writes out, each below a line with its name."""
    for language, block in fences(text):
        _, *parts = _OWN_FILE.split(block) if language == "yaml" else [""]
        for name, content in zip(parts[::2], parts[1::2], strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
            assert yaml.safe_load(content)
    return folder


@cache
def refusal(command: Command, folder: Path | None) -> str | None:
    """Why it does not compose; `folder` is the user's own."""
    if not (ROOT / "scripts" / f"{command.script}.py").is_file():
        return "there is no such script"
    search = [f"hydra.searchpath=[file://{folder}]"] if folder else []
    try:
        for words in alternatives(command.words):
            with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
                compose(command.script, overrides=[*search, *words], return_hydra_config=True)
    except HydraException as error:
        return str(error)
    return None


WITH_COMMANDS = [name for name, page in BY_NAME.items() if name != "CHANGELOG.md" and list(commands(page.read_text()))]


@pytest.mark.ci  # a hundred compositions
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_composes(name: str, tmp_path: Path):
    """What tests of the commands themselves run is not run here once more; a word that is misspelt or out of date is seen."""
    text = BY_NAME[name].read_text()
    folders = {None: None, "conf": own_files(text, tmp_path)} | MINE
    asked = {command: folders.get(command.config_dir, ROOT / str(command.config_dir)) for command in commands(text)}
    assert {command: why for command, folder in asked.items() if (why := refusal(command, folder))} == {}


def test_commands_are_found():
    found = list(commands((DOCS / "guides" / "embodiment.md").read_text()))
    assert [command.script for command in found][:5] == ["train", "check", "export", "serve", "control"]
    assert found[0].config_dir == "mine"
    assert "head=regression" in found[0].words
    assert len(WITH_COMMANDS) > 20


def test_a_command_out_of_date_is_seen():
    assert "nothing_r16" in str(refusal(Command("train", ("adapter=nothing_r16",), None), None))


def test_options_of_a_sweep_are_each_composed():
    words = ("adapter=lora_r4,full", "seed=0,1,2")
    assert alternatives(words) == [["adapter=lora_r4", "seed=0"], ["adapter=full", "seed=0"]]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250
