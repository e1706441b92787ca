"""Pictures of a camera, decoded from the dataset's video files."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from jaxtyping import Float64, UInt8

from vla_tune.data.folder import Span, leave_out
from vla_tune.data.frames import Frames, time_tolerance_s
from vla_tune.data.images import named, size_fault, undecodable
from vla_tune.data.pieces import pieces
from vla_tune.schema import Camera

if TYPE_CHECKING:
    from lerobot.datasets.video_utils import VideoDecoderCache

_MP4, _MATROSKA = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"), b"\x1a\x45\xdf\xa3"
_log = logging.getLogger(__name__)


class Videos:
    """Pictures stored as video; an episode is decoded as a whole, because each picture needs those before it.

    Frame k of an episode is shown k / fps after the video's episode begins, whatever its time stamp says (`check_spans`).
    """

    def __init__(self, spans: Mapping[int, Span], fps: float, camera: Camera, frames: Frames) -> None:
        self.spans = {episode: spans[episode] for episode in np.unique(frames.episode).tolist()}
        self.fps, self.camera, self.frames = fps, camera, frames
        for episode, span in self.spans.items():
            if not span.file.is_file():
                raise FileNotFoundError(f"video {span.file} of episode {episode} is missing: copy or download it again.")
        for path in dict.fromkeys(span.file for span in self.spans.values()):
            _check_container(path)
        check_spans(self.spans, fps, camera, frames)

    def decode(self, rows: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Decoded pictures.

        Raises:
            ValueError: a picture cannot be decoded, or is not the camera's; the file, the episode and the frame are named.
        """
        span = self.spans[int(self.frames.episode[rows[0]])]
        times = span.start_s + self.frames.frame[list(rows)] / self.fps
        try:
            pictures = _decoded(span.file, times)
        except Exception as error:  # each decoder has exceptions of its own
            if len(rows) > 1:  # find the one to name
                return [self.decode([row])[0] for row in rows]
            raise ValueError(undecodable(self._said(rows[0]), error, self.frames.episode[rows[0]])) from None
        if (fault := size_fault(pictures[0].shape[1], pictures[0].shape[0], self.camera)) is not None:
            raise ValueError(f"{self._said(rows[0])} {fault}, or {leave_out(self.frames.episode[rows[0]])}.")
        return pictures

    def check(self, rows: Sequence[int]) -> None:
        """Read the header of every file."""
        first = {self.spans[episode].file: row for row, episode in reversed([(row, int(self.frames.episode[row])) for row in rows])}
        for path, row in first.items():
            try:
                width, height, kind = _header(path)
            except (av.error.FFmpegError, IndexError) as error:
                raise ValueError(undecodable(self._said(row), error, self.frames.episode[row])) from None
            fault = size_fault(width, height, self.camera)
            if fault is None and kind.startswith("gray") and kind != "gray":
                fault = f"has {kind} values, distances and no colours: name a colour camera in the embodiment"
            if fault is not None:
                raise ValueError(f"{self._said(row)} {fault}, or {leave_out(self.frames.episode[row])}.")

    def marks(self, rows: Sequence[int]) -> Iterator[bytes]:
        """Of the films of the frames' episodes."""
        episodes = np.unique(self.frames.episode[list(rows)]).tolist()
        for path in dict.fromkeys(self.spans[episode].file for episode in episodes):
            yield from pieces(path)

    def _said(self, row: int) -> str:
        return f"{self.spans[int(self.frames.episode[row])].file}: {named(self.camera, self.frames, row)}"


def check_spans(spans: Mapping[int, Span], fps: float, camera: Camera, frames: Frames) -> None:
    """Refuse a video whose frames cannot be found by their numbers.

    LeRobot finds a frame by its time stamp. Where that is not frame / fps (it goes on over the episodes, or begins late), numbers
    and times say different things; the numbers are right if the video shows the episode in exactly as many frames.

    Raises:
        ValueError: the video is shorter than the episode, or times and numbers disagree and its length decides for neither.
    """
    moved = list[int]()
    for row in np.flatnonzero(frames.frame == 0).tolist():
        episode, length = int(frames.episode[row]), int(frames.end[row]) - row
        shown = (spans[episode].end_s - spans[episode].start_s) * fps
        times = frames.timestamp[row : row + length]
        agree = bool(np.all(np.abs(times - frames.frame[row : row + length] / fps) <= 0.5 / fps))
        if shown < length - 0.5 or not (agree or shown < length + 0.5):
            raise ValueError(
                f"{spans[episode].file}: {camera.key!r} shows episode {episode} in {shown:.1f} frames, the data have {length} from "
                f"{times[0]:.4f} s on: which picture is whose is not known. Record it again, or {leave_out(episode)}."
            )
        moved += [] if agree else [episode]
    if moved:
        _log.warning(
            "%s: the time stamps of episode %d, and of %d more, are not frame / fps; pictures are found by the frame's number.",
            camera.key,
            moved[0],
            len(moved) - 1,
        )


def _check_container(path: Path) -> None:
    """Refuse what is no MP4 and no Matroska: FFmpeg opens whatever other files and addresses a list of films names."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:] not in _MP4 and head[:4] != _MATROSKA:
        raise ValueError(f"{path} is no MP4 or Matroska film, it begins with {head!r}: copy or record it again.")


@cache
def video_backend() -> str:
    """The video decoder that works here: torchcodec where it finds its FFmpeg libraries, else PyAV, which brings them."""
    try:
        import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        _log.info("videos are decoded with PyAV: torchcodec is missing or finds no FFmpeg libraries on this machine.")
        return "pyav"
    return "torchcodec"


def _decoded(path: Path, times_s: Float64[np.ndarray, " M"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    from lerobot.datasets.video_utils import decode_video_frames_pyav, decode_video_frames_torchcodec

    tolerance, times = float(time_tolerance_s(times_s).max()), times_s.tolist()
    if video_backend() == "pyav":
        pictures = decode_video_frames_pyav(path, times, tolerance, return_uint8=True)
    else:
        decoders = _decoders(os.getpid())
        pictures = decode_video_frames_torchcodec(path, times, tolerance, decoder_cache=decoders, return_uint8=True)
    return list(pictures.permute(0, 2, 3, 1).contiguous().numpy())


def _header(path: Path) -> tuple[int, int, str]:
    """Width, height and kind of values of a video's pictures."""
    with closing(av.open(str(path))) as container:
        shown = container.streams.video[0].codec_context
        return shown.width, shown.height, str(shown.pix_fmt)


@cache
def _decoders(process: int) -> "VideoDecoderCache":
    """Open decoders of one process: a forked one would read through its parent's place in the file."""
    from lerobot.datasets.video_utils import VideoDecoderCache

    return VideoDecoderCache()
