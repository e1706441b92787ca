"""One reader for every file of tensors: what it refuses, and that nothing is changed then."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vla_tune.models.tensor_reader import check_tensors, copy_tensors, open_tensor_file, read_tensor_file


@pytest.fixture
def path(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "file", metadata={"of": "a test"})
    return tmp_path / "file"


def test_a_file_is_read_whole(path):
    metadata, tensors = read_tensor_file(path, remedy="copy it again")
    assert metadata == {"of": "a test"}
    assert torch.equal(tensors["a"], torch.ones(2, 3))
    assert tensors["b"].dtype == torch.bfloat16


def test_numpy_gets_arrays_and_bfloat16_is_refused(path, tmp_path):
    save_file({"a": torch.ones(2, 3)}, tmp_path / "plain")
    assert np.array_equal(read_tensor_file(tmp_path / "plain", remedy="", framework="np").tensors["a"], np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"file is damaged .*bfloat16.*: copy it again\.$"):
        read_tensor_file(path, remedy="copy it again", framework="np")


@pytest.mark.parametrize("read", [open_tensor_file, read_tensor_file])
@pytest.mark.parametrize("length", [0, 5, -1])
def test_a_damaged_file_is_named_with_the_remedy(path, read, length):
    data = path.read_bytes()[:length]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"file is damaged or cut short \(.*has {len(data)} bytes\): copy it again\.$"):
        read(path, remedy="copy it again")


@pytest.mark.parametrize("read", [open_tensor_file, read_tensor_file])
def test_a_missing_file_is_no_damaged_one(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere", remedy="copy it again")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, r"1 tensors missing \(first \['a'\]\), 0 left over \(first \[\]\)"),
        ({"a": torch.ones(2), "c": torch.ones(1)}, r"0 tensors missing \(first \[\]\), 1 left over \(first \['c'\]\)"),
        ({"a": torch.ones(3)}, r"a is torch.float32 \(3,\), the model has torch.float32 \(2,\)"),
        ({"a": torch.ones(2).double()}, r"a is torch.float64 \(2,\), the model has torch.float32 \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(found, message):
    into = {"a": torch.zeros(2)}
    with pytest.raises(ValueError, match=rf"^here: {message}\. Take the other\.$"):
        copy_tensors(found, into, source="here", remedy="Take the other")
    assert not into["a"].any()


def test_all_are_copied_and_meta_tensors_compared():
    parameter = torch.nn.Parameter(torch.zeros(2))
    copy_tensors({"a": torch.ones(2)}, {"a": parameter}, source="here", remedy="")
    assert torch.equal(parameter.data, torch.ones(2))
    check_tensors({"a": torch.ones(2)}, {"a": torch.empty(2, device="meta")}, source="here", remedy="")
