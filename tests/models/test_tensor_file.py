import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from vla_tune.models.tensor_file import Place, write_tensor_file

NAMES = {torch.uint8: "U8", torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def place(tensor: torch.Tensor) -> Place:
    return Place(NAMES[tensor.dtype], tuple(tensor.shape))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(NAMES)), st.lists(st.integers(0, 5), max_size=3)), max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_what_safetensors_reads(tmp_path_factory, described, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"t{i}": torch.randint(0, 200, shape, generator=generator).to(dtype) for i, (dtype, shape) in enumerate(described)}
    path = tmp_path_factory.mktemp("tensors") / "deep" / "file.safetensors"
    places = {name: place(tensor) for name, tensor in tensors.items()}
    write_tensor_file(path, places, tensors.items(), metadata={"made": "here"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as handle:
        assert handle.metadata() == {"made": "here"}
    assert [entry.name for entry in path.parent.iterdir()] == ["file.safetensors"]


ONE, TWO = torch.ones(2), torch.ones(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("two", TWO), ("one", ONE)], r"came where \('one'"),
        ([("one", ONE.bfloat16()), ("two", TWO)], "BF16"),
        ([("one", ONE), ("two", TWO), ("three", ONE)], "came where None"),
        ([("one", ONE)], "1 tensors did not come, first two"),
        ([("one", ONE.to(torch.complex64)), ("two", TWO)], r"'\?'"),
    ],
)
def test_tensors_that_do_not_fit_leave_no_file(tmp_path, tensors, message):
    places = {"one": place(ONE), "two": place(TWO)}
    with pytest.raises(ValueError, match=message):
        write_tensor_file(tmp_path / "file.safetensors", places, tensors, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_one_tensor_is_asked_for_after_the_other(tmp_path):
    seen = []

    def tensors():
        for name in ("one", "two"):
            seen.append([path.stat().st_size for path in tmp_path.iterdir()])
            yield name, torch.zeros(2**18)

    places = dict.fromkeys(("one", "two"), Place("F32", (2**18,)))
    write_tensor_file(tmp_path / "file.safetensors", places, tensors(), metadata={})
    assert seen[0] < seen[1]
