"""Names of dimensions: read from the dataset, kept, and never passed over."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.names import with_names
from vla_tune.data.sources import Local, load_demonstrations
from vla_tune.schema import Embodiment, dimension_names, to_record

NAMES = ["x.pos", "y.pos", "z.pos", "suction.pos"]


@pytest.fixture
def renamed(image_folder: Path, tmp_path: Path):
    """A copy of the dataset whose action columns bear other names."""

    def make(names: object) -> Path:
        folder = shutil.copytree(image_folder, tmp_path / f"copy{len(list(tmp_path.iterdir()))}")
        path = folder / "meta" / "info.json"
        info = json.loads(path.read_text())
        info["features"]["action"]["names"] = names
        path.write_text(json.dumps(info))
        return folder

    return make


def opened(folder: Path, body: Embodiment) -> Embodiment:
    return Demonstrations(folder, embodiment=body, chunks=ChunksByTimestamp(1)).embodiment


def loaded(body: Embodiment, *folders: Path):
    given = {"chunks": ChunksByTimestamp(2), "held_out": 0.25, "seed": 0, "weights": [1.0] * len(folders)}
    return load_demonstrations(embodiment=to_record(body), sources=[Local(str(folder)) for folder in folders], **given)


@pytest.mark.parametrize("names", [NAMES, {"motors": NAMES}, {name: place for place, name in enumerate(NAMES)}])
def test_the_columns_names_are_kept(renamed, body: Embodiment, names):
    groups = loaded(body, renamed(names)).embodiment.action
    assert [group.names for group in groups] == [tuple(NAMES[:3]), (NAMES[3],)]


@pytest.mark.parametrize("names", [None, ["motors"], ["arm", "arm", "arm", "hand"], ["x", "y", "z", " "]])
def test_what_names_no_dimension_says_nothing(body: Embodiment, names):
    assert with_names(body, names, names, source="here") == body


def test_an_embodiment_that_names_other_columns_is_refused(renamed, body: Embodiment):
    first, last = body.action
    says = replace(body, action=(replace(first, names=("y.pos", "x.pos", "z.pos")), replace(last, names=("suction.pos",))))
    with pytest.raises(ValueError, match=r"'action' has the dimensions x.pos, y.pos, .* the embodiment names y.pos, x.pos"):
        opened(renamed(NAMES), says)
    kept = opened(renamed(None), says)
    assert dimension_names(kept.action) == ["y.pos", "x.pos", "z.pos", "suction.pos"]


def test_sources_with_other_orders_are_not_mixed(renamed, body: Embodiment):
    swapped = [NAMES[1], NAMES[0], *NAMES[2:]]
    with pytest.raises(ValueError, match=r"copy1 has the action dimensions y.pos, x.pos, .*copy0 has x.pos, y.pos, .* by place"):
        loaded(body, renamed(NAMES), renamed(swapped))
    with pytest.raises(ValueError, match=r"copy3 has the action dimensions tool_translation_0, "):
        loaded(body, renamed(NAMES), renamed(None))
