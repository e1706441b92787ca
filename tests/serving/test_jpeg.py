"""Pictures as JPEG: nearly the same, only where both sides chose it, and nothing else gets in that way."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vla_tune.schema import Observation
from vla_tune.serving.client import RemotePolicy, ServerError
from vla_tune.serving.codec import observation_in, request_of
from vla_tune.serving.jpeg import check_quality, from_jpeg, to_jpeg
from vla_tune.serving.limits import MessageError


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    """Smooth, as photographs are."""
    rows, columns = np.mgrid[0:height, 0:width] / 64
    channels = [np.sin(3 * rows), np.cos(2 * columns), np.sin(rows + columns)]
    return np.stack([127 + 120 * channel for channel in channels], axis=-1).astype(np.uint8)


def file(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(90, 100))
def test_a_picture_comes_back_nearly_the_same(height, width, quality):
    image = picture(height, width)
    back = from_jpeg(to_jpeg(image, quality), largest=90 * 90)
    assert back.shape == image.shape
    assert np.abs(back.astype(int) - image).mean() < 2.0


def many_scans() -> bytes:
    """A progressive file that says its last scan again and again; each takes as long as a picture."""
    data = file(Image.fromarray(picture()), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 500 + data[-2:]


def two_scans() -> bytes:
    data = to_jpeg(picture(), 90)
    scan = data.index(b"\xff\xda")
    return data[:-2] + data[scan:]


def many_segments() -> bytes:
    data = to_jpeg(picture(), 90)
    return data[:2] + b"\xff\xe5\x00\x02" * 1000 + data[2:]


REFUSED = {
    "nothing": lambda: b"",
    "a beginning": lambda: b"\xff\xd8\xff",
    "a PNG": lambda: file(Image.fromarray(picture()), "PNG"),
    "grey": lambda: file(Image.fromarray(picture()).convert("L"), "JPEG"),
    "CMYK": lambda: file(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
    "cut off": lambda: to_jpeg(picture(), 90)[:-200],
    "cut off in its header": lambda: to_jpeg(picture(), 90)[:100],
    "large": lambda: to_jpeg(picture(64, 65), 90),
    "many scans": many_scans,
    "two scans": two_scans,
    "many segments": many_segments,
}


@pytest.mark.parametrize("data", list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_no_small_colour_jpeg_is_refused(data):
    with pytest.raises(MessageError, match="JPEG"):
        from_jpeg(data(), largest=64 * 64)


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    ],
    ids=["Exif", "several pictures"],
)
def test_broken_metadata_is_not_read(marker, content):
    """Its readers warn, a line of the log for each."""
    data = to_jpeg(picture(), 90)
    spoilt = data[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content + data[2:]
    assert np.array_equal(from_jpeg(spoilt, largest=64 * 64), from_jpeg(data, largest=64 * 64))


@pytest.mark.parametrize("quality", [0, 49, 101])
def test_a_quality_that_no_policy_should_see_is_refused(quality):
    with pytest.raises(ValueError, match=f"jpeg_quality={quality}: choose 50 to 100"):
        check_quality(quality)


@pytest.fixture
def seen() -> Observation:
    return Observation({"front": picture()}, np.zeros(4, np.float32), "lift the red block")


@pytest.fixture
def means():
    """A policy that says how bright each colour is."""

    def act(observations, names):
        return [np.tile(np.array([*one.images["front"].mean(axis=(0, 1)) / 255, 0], np.float32), (4, 1)) for one in observations]

    return act


def test_both_sides_choose_it(served, means, tiny_contract, seen):
    contract = replace(tiny_contract, jpeg_quality=90)
    with served(means, contracts={"default": contract}) as address:
        plain, small = (RemotePolicy(address.url, contract=tiny_contract, jpeg_quality=quality) for quality in (None, 90))
        assert np.abs(plain.act([seen]) - small.act([seen])).max() < 0.01
        assert not np.array_equal(plain.act([seen]), small.act([seen]))
        with pytest.raises(ValueError, match="was started with jpeg_quality=90, this client with 95"):
            RemotePolicy(address.url, jpeg_quality=95).act([seen])
        plain.close()
        small.close()


def test_a_server_that_did_not_choose_it_takes_none(served, means, tiny_contract, seen):
    with pytest.raises(MessageError, match=r"observation/front is a file, .* jpeg_quality=... to allow JPEG"):
        observation_in(request_of(seen, jpeg_quality=90), tiny_contract)
    with served(means) as address, pytest.raises(ValueError, match="was started with jpeg_quality=None, this client with 90"):
        RemotePolicy(address.url, jpeg_quality=90).act([seen])


def test_a_broken_file_is_an_error_of_its_client_only(served, means, tiny_contract, seen):
    contract = replace(tiny_contract, jpeg_quality=90)
    with served(means, contracts={"default": contract}) as address:
        policy = RemotePolicy(address.url, jpeg_quality=90)
        policy.act([seen])
        broken = request_of(seen) | {"observation/front": b"\xff\xd8\xff\x00", "endpoint": "infer"}
        with pytest.raises(ServerError, match="no JPEG that can be read"):
            policy._exchanged(broken)
        policy.act([seen])
        policy.close()
