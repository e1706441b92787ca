"""A process of its own reads the pictures that its parent reads."""

import os
import pickle
import warnings

import numpy as np
import pytest
from torch.utils.data import DataLoader

from vla_tune.data.chunks import ChunksByTimestamp
from vla_tune.data.dataset import Demonstrations
from vla_tune.data.videos import _decoders
from vla_tune.schema import Embodiment

KEY = "observation.images.front"


@pytest.mark.parametrize("folder", ["image_folder", "video_folder"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_parent_that_has_decoded_read_the_same(folder: str, body: Embodiment, request: pytest.FixtureRequest):
    """Forked, the worst case: they inherit what their parent has open."""
    root = request.getfixturevalue(folder)
    data = Demonstrations(root, embodiment=body, chunks=ChunksByTimestamp(2), cache_bytes=0)
    alone = [data[index][KEY] for index in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork", collate_fn=dict)
    for sample, picture in zip(loader, alone, strict=True):
        assert np.array_equal(sample[KEY], picture)


def test_open_decoders_are_those_of_the_process():
    own = _decoders(os.getpid())
    assert _decoders(os.getpid()) is own
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child only looks
        child = os.fork()
    if not child:
        os.write(writer, b"shared" if _decoders(os.getpid()) is own else b"its own")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"its own"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("folder", ["image_folder", "video_folder"])
def test_what_is_sent_to_a_worker_has_no_pictures(folder: str, body: Embodiment, request: pytest.FixtureRequest):
    data = Demonstrations(request.getfixturevalue(folder), embodiment=body, chunks=ChunksByTimestamp(2))
    before = len(pickle.dumps(data))
    for index in range(len(data)):
        data[index]
    sent = pickle.dumps(data)
    assert len(sent) == before
    assert np.array_equal(pickle.loads(sent)[5][KEY], data[5][KEY])
