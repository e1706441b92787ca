"""Every option of every group composes with its root configuration and fits what it names."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from beartype.door import is_bearable
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

import vla_tune.run.folder  # noqa: F401 (registers the resolvers)

CONF = Path(__file__).parents[1] / "conf"
ROOTS = sorted(path.stem for path in CONF.glob("*.yaml"))
NEEDED = {
    "check": ["run=nowhere"],
    "combine": ["runs=[nowhere]", "to=nowhere"],
    "compare": ["runs=[nowhere,elsewhere]"],
    "control": ["policy=nowhere"],
    "eval": ["run=nowhere", "task=lift"],
    "export": ["run=nowhere"],
    "merge": ["run=nowhere"],
    "serve": ["policy=nowhere"],
    "spectrum": ["run=nowhere"],
}
"""What a root configuration asks of the user."""
ROBOT = "embodiment@data.embodiment=so101"
"""What a recipe asks of the user, if it is not about one robot."""


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(root, overrides=[*NEEDED.get(root, []), *overrides], return_hydra_config=True)


def without_hydra(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    plain = OmegaConf.create({name: cfg._get_node(name) for name in cfg if name != "hydra"})
    tree = OmegaConf.to_container(plain, resolve=resolve)
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items()}


def groups_of(root: str) -> Iterator[str]:
    """`adapter`, or `embodiment@data.embodiment` where the root places it elsewhere."""
    for key in composed(root).hydra.runtime.choices:
        group = key.partition("@")[0]
        if not group.startswith(("hydra", "local")) and (CONF / group).is_dir():
            yield key


def filled_in(root: str) -> set[str]:
    """Groups whose keys the root sets itself: it has chosen their option."""
    return {key for key, value in yaml.safe_load((CONF / f"{root}.yaml").read_text()).items() if isinstance(value, dict)}


def choices() -> list[tuple[str, str]]:
    """Every option of every group with the first root that offers it, and one option of it with every other root.

    A group that no root offers as such comes where it is placed. What an option says does not depend on the root, what is beside it
    does; so one of them is enough to see that the group fits there.
    """
    keys = [(root, key) for root in ROOTS for key in groups_of(root) if key not in filled_in(root)]
    plain = {key for _, key in keys if "@" not in key}
    placed = {key.partition("@")[0]: (root, key) for root, key in keys if key.partition("@")[0] not in plain}
    kept = [*[(root, key) for root, key in keys if "@" not in key], *placed.values()]
    found: list[tuple[str, str]] = []
    for root, key in kept:
        options = sorted((CONF / key.partition("@")[0]).glob("*.yaml"))
        again = any(other.partition("=")[0] == key for _, other in found)
        found += [(root, f"{key}={option.stem}") for option in (options[-1:] if again else options)]
    return found


CHOICES = choices()
ALONE = ("experiment", "sweep", "targets@adapter")
"""Groups whose options choose those of other groups."""


def side_by_side() -> list[tuple[str, list[str]]]:
    """Compositions in which every choice occurs once: options of one group by turns, those of different groups together."""
    options: dict[tuple[str, str], list[str]] = {}
    for root, choice in CHOICES:
        options.setdefault((root, choice.partition("=")[0]), []).append(choice)
    rows = {(root, key, index): [choice] for (root, key), of in options.items() if key in ALONE for index, choice in enumerate(of)}
    for (root, key), of in options.items():
        for index, choice in enumerate(of if key not in ALONE else []):
            rows.setdefault((root, "", index), []).append(choice)
    return [(root, row) for (root, _, _), row in rows.items()]


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from targets(child)


def is_literal(value: Any) -> bool:
    """Whether `value` reaches the target as it is written: no interpolation, nothing missing, nothing that is built first."""
    if isinstance(value, dict):
        return "_target_" not in value and all(is_literal(child) for child in value.values())
    if isinstance(value, list):
        return all(is_literal(child) for child in value)
    return not (isinstance(value, str) and ("${" in value or value == "???"))


def misfit(node: dict[str, Any]) -> str | None:
    """What `_target_` would not take of the keys under it."""
    keys = {key: value for key, value in node.items() if not key.startswith("_")}
    signature = inspect.signature(get_object(node["_target_"]), eval_str=True)
    try:
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**keys)
    except TypeError as error:
        return f"{node['_target_']}: {error}"
    for key, value in keys.items():
        hint = signature.parameters[key].annotation if key in signature.parameters else Any
        if hint is inspect.Parameter.empty or not is_literal(value):
            continue
        fitting = float | int if hint is float else hint
        if not (is_bearable(value, fitting) or (isinstance(value, list) and is_bearable(tuple(value), fitting))):
            return f"{node['_target_']}: {key}={value!r} is not {hint}"
    return None


def test_every_option_belongs_to_a_root():
    reached = {choice.partition("=")[0].partition("@")[0] for _, choice in CHOICES}
    folders = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/*.yaml")} - {"hydra", "local"}
    assert folders <= reached
    assert set(ROOTS) == {path.stem for path in (CONF.parent / "scripts").glob("*.py")}


@pytest.mark.parametrize(("root", "row"), side_by_side(), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_an_option_fits_its_target(root: str, row: list[str]):
    more = [ROBOT] if row[0].startswith("experiment=") else []
    tree = without_hydra(composed(root, *row, *more), resolve=False)
    assert [problem for node in targets(tree) if (problem := misfit(node))] == []


def test_samples_are_changed_only_where_it_is_said():
    assert composed("train").augmentation is None
    assert composed("train", "augmentation=openvla").augmentation.crop_area == 0.9


@pytest.mark.parametrize("root", ROOTS)
def test_every_interpolation_leads_somewhere(root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cfg = composed(root)
    with open_dict(cfg.hydra):
        cfg.hydra.runtime.output_dir = str(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    tree = without_hydra(cfg, resolve=True)
    assert "${" not in str(tree)
    assert list(without_hydra(cfg, resolve=False)) == list(tree)


@pytest.mark.parametrize("root", ["train", "eval", "pretrain"])
def test_a_folder_is_named_with_harmless_letters(root: str, monkeypatch: pytest.MonkeyPatch):
    cfg = composed(root, "evaluation.films=[]", "execution=receding")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    folder = Path(cfg.hydra.run.dir)
    assert folder.parts[0] == "runs"
    assert not set("=,'\"[] ") & set(str(folder))


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(MissingConfigException, match="lora_r17") as caught:
        composed("train", "adapter=lora_r17")
    assert "qlora_r16" in str(caught.value)


@pytest.mark.parametrize("override", ["adapter.rnak=8", "sed=1", "training.stepz=1"])
def test_a_misspelt_key_is_refused(override: str):
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        composed("train", override)


def test_a_misspelt_group_is_refused():
    with pytest.raises(ConfigCompositionException, match="adaptor"):
        composed("train", "adaptor=full")


LORA = {
    "_target_": "vla_tune.adapters.Lora",
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "targets": ["q"],
    "towers": ["t"],
    "base": "bf16",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"alpha": "${x}"}, None),
        ({"rnak": 8}, "unexpected keyword argument 'rnak'"),
        ({"rank": "eight"}, "rank='eight' is not"),
        ({"targets": [1]}, "targets=[1] is not"),
    ],
)
def test_the_check_itself(changes: dict[str, Any], message: str | None):
    problem = misfit(LORA | changes)
    assert problem is None if message is None else message in str(problem)


def test_a_required_key_is_missed():
    problem = str(misfit({key: value for key, value in LORA.items() if key != "rank"}))
    assert "missing a required" in problem
    assert "'rank'" in problem
    assert misfit({"_target_": "vla_tune.tokens.uniform_bins", "_partial_": True, "num_bins": 8}) is None


def test_an_option_is_only_what_differs():
    qlora = yaml.safe_load((CONF / "adapter" / "qlora_r16.yaml").read_text())
    assert set(qlora) == {"defaults", "base"}


def test_a_package_is_named_in_the_first_line():
    """Hydra reads it nowhere else."""
    for path in CONF.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines[1:] if line.startswith("# @package")], path


def test_nothing_is_augmented_unless_it_is_said():
    assert composed("train").augmentation is None
