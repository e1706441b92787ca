"""Messages: what openpi's clients send is read, and nothing that could hurt."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vla_tune.serving.codec import decode, encode
from vla_tune.serving.limits import MAX_BYTES, MAX_DEPTH, MessageError
from vla_tune.serving.strict_json import from_json

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
KINDS = st.sampled_from(["|b1", "|u1", "<i2", "<u4", ">i8", "<f2", "<f4", ">f8"])
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_plain_values_come_back(value):
    assert decode(encode(value)) == value


@given(KINDS.flatmap(lambda kind: arrays.arrays(np.dtype(kind), SHAPES)))
def test_arrays_come_back_bit_for_bit(array):
    found = decode(encode({"image": array}))["image"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not found.flags.writeable


@given(KINDS.filter(lambda kind: kind != ">f8"))
def test_scalars_keep_their_dtype(kind):
    """A float64 is a Python float, and comes back as one."""
    found = decode(encode(np.dtype(kind).type(1)))
    assert found == 1
    assert found.dtype == np.dtype(kind).newbyteorder("=")


def test_the_bytes_are_openpis():
    message = encode({"actions": np.zeros((1, 2), "<f4"), "n": np.float32(1.5)})
    assert message.startswith(
        b"\x82\xa7actions\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x08" + bytes(8) + b"\xc4\x05dtype\xa3<f4"
    )
    assert b"\xc4\x05shape\x92\x01\x02\xa1n\x83\xc4\x0d__npgeneric__\xc3" in message


def array(**changes) -> bytes:
    record = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
    return msgpack.packb({"x": record | {key.encode(): value for key, value in changes.items()}})


HOSTILE = {
    "objects": array(dtype="|O"),
    "void": array(dtype="|V8"),
    "a structure": array(dtype="<f4,<f4"),
    "dates": array(dtype="<M8[s]"),
    "no dtype": array(dtype=None),
    "a dtype of bytes": array(dtype=b"<f4"),
    "a negative size": array(shape=[-2]),
    "sizes that multiply to the right number": array(shape=[-1, -2]),
    "a huge shape": array(shape=[2**62, 2**62]),
    "an overflowing shape": array(shape=[2**32, 2**32]),
    "a size of True": array(shape=[True, 2]),
    "a size of 2.0": array(shape=[2.0]),
    "too many dimensions": array(shape=[1] * 40 + [2]),
    "no shape": array(shape=None),
    "a short buffer": array(data=bytes(7)),
    "a long buffer": array(data=bytes(9)),
    "text as data": array(data="12345678"),
    "a scalar of text": msgpack.packb({b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}),
    "a scalar above what its type holds": msgpack.packb({b"__npgeneric__": True, b"data": 1e300, b"dtype": "<f2"}),
    "a scalar out of range": msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}),
    "a deep list": b"\x91" * 100 + b"\xc0",
    "a list of too many": msgpack.packb([None] * 257),
    "a map of too many": msgpack.packb({str(number): None for number in range(257)}),
    "many small lists": msgpack.packb([[[[]] * 200] * 200] * 2),
    "many small maps": msgpack.packb([[{}] * 200] * 200),
    "many small arrays": msgpack.packb([[{b"__ndarray__": True, b"data": b"", b"dtype": "|u1", b"shape": [0]}] * 200] * 30),
    "deep, and wide at each level": (b"\xdc\x01\x00" + b"\xc0" * 255) * 1000,
    "a long text": msgpack.packb("a" * (2**20 + 1)),
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a very deep list": b"\x91" * 1_000_000 + b"\xc0",
    "a deep map": b"\x81\xa1a" * 40 + b"\xc0",
    "a long list announced": b"\xdd\xff\xff\xff\xff",
    "a long map announced": b"\xdf\xff\xff\xff\xff",
    "long bytes announced": b"\xc6\xff\xff\xff\xff",
    "a number as a key": msgpack.packb({1: 2}),
    "bytes as a key": msgpack.packb({b"a": 2}),
    "an extension": msgpack.packb(msgpack.ExtType(5, b"code")),
    "text that is none": b"\xa2\xff\xfe",
    "nothing": b"",
    "two messages": msgpack.packb(1) + msgpack.packb(2),
    "too large": bytes(MAX_BYTES + 1),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_what_could_hurt_is_refused_in_one_sentence(message):
    with pytest.raises(MessageError) as caught:
        decode(message)
    assert len(str(caught.value)) < 400


def test_how_many_parts_there_may_be_is_the_readers_choice():
    message = msgpack.packb([[0] * 200] * 4)
    assert decode(message, most=1000) == [[0] * 200] * 4
    with pytest.raises(MessageError, match="a message has more than 500 parts"):
        decode(message, most=500)


JSON = {
    "many values": b"[" + b"1," * 20_000 + b"1]",
    "many lists": "[" * 20_001,
    "many keys": "{" + ",".join(f'"{number}": 0' for number in range(20_001)) + "}",
    "deep": "[" * 19_000,
    "a long number": "1" * 21,
    "not a number": "[NaN]",
    "infinity": b"[-Infinity]",
    "a number beyond all": b"[1e999]",
    "a key twice": '{"a": 1, "a": 2}',
    "half a text": b'"\xff"',
    "nothing": "",
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_that_could_hurt_is_refused_in_one_sentence(text):
    with pytest.raises(MessageError) as caught:
        from_json(text)
    assert len(str(caught.value)) < 400


def test_an_object_of_json_may_be_read_as_something_else():
    assert from_json('{"a": {"b": [1, 2.5, "c"]}}', hook=lambda record: list(record.items())) == [("a", [("b", [1, 2.5, "c"])])]


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(message):
    try:
        read = encode(decode(message))
    except MessageError as error:
        read = str(error)
    assert read


def test_what_cannot_be_read_is_not_sent():
    for value in (np.array([object()]), {1, 2}, object(), np.array(["text"]), np.zeros(MAX_BYTES, np.uint8), 2**70):
        with pytest.raises(MessageError):
            encode(value)
    deep: list = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(MessageError, match="deeper than"):
        decode(encode(deep))


@pytest.mark.parametrize("message", [b"\x81\x80\x00", b"\x81\x90\x00"], ids=["map", "list"])
def test_a_key_that_cannot_be_one_is_refused(message: bytes) -> None:
    with pytest.raises(MessageError, match="no message that is read here"):
        decode(message)
