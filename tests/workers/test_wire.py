import msgpack
import numpy as np
import pytest

from vla_tune.workers.wire import decode, encode


def test_what_crosses_is_the_same_to_the_last_bit():
    given = {
        "text": "lift it",
        "numbers": [1, 2.5, None, True, 2**32 - 1, 0.1],
        "picture": np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8),
        "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "one": np.float64(0.1),
        "none": np.zeros((0, 4), np.float32),
    }
    read = decode(encode(given))
    assert read["text"] == given["text"]
    assert read["numbers"] == given["numbers"]
    assert read["one"] == 0.1
    for name in ("picture", "turned", "none"):
        assert (read[name].dtype, read[name].shape, read[name].tobytes()) == (
            given[name].dtype,
            given[name].shape,
            given[name].tobytes(),
        )
        assert read[name].flags.writeable


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["a"]), {"set": {1}}])
def test_what_is_no_plain_data_does_not_leave(value):
    with pytest.raises(TypeError, match="is no plain data"):
        encode(value)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [(1, ["|O", [1], b"12345678"], "are no numbers"), (2, [], "which is no array"), (1, ["<f4", [3], b"1234"], "reshape")],
)
def test_what_is_no_array_of_numbers_is_not_read(kind, content, message):
    with pytest.raises(ValueError, match=message):
        decode(msgpack.packb(msgpack.ExtType(kind, msgpack.packb(content))))
