"""Films of episodes: what the policy saw, with its instruction and the outcome."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vla_tune.evaluation.episodes import EpisodeRecord
from vla_tune.schema import Observation

_HEIGHT = 384  # pixels, at least, of an enlarged picture
_BORDER = 8  # pixels
_LINE = 20  # pixels of text height
_PAUSE_S = 1.0  # how long the last picture stands
_COLOURS = {True: (46, 160, 67), False: (209, 49, 49)}


@dataclass(frozen=True, eq=False)
class Film:
    """A watcher that films chosen episodes as H.264 files `<task>_<episode>_<success|failure>.mp4`.

    The cameras stand side by side in whole multiples of their pixels, the instruction above them; the border is green for a
    success and red for a failure.
    """

    folder: Path
    episodes: Collection[int]
    """Which episodes to film."""
    frames_per_second: float
    """The control rate, for a film in real time."""
    _seen: dict[int, list[Observation]] = field(default_factory=dict, init=False, repr=False)

    def looks(self, episode: int) -> bool:
        """At those that it films."""
        return episode in self.episodes

    def see(self, episode: int, observation: Observation) -> None:
        """Keep a picture."""
        self._seen.setdefault(episode, []).append(observation)

    def finish(self, record: EpisodeRecord) -> None:
        """Write the film of this episode."""
        seen = self._seen.pop(record.episode, None)
        if seen is None:
            return
        outcome = "success" if record.success else "failure"
        last = len(seen) - 1
        frames = [
            picture(observation, caption=f"{record.task}  episode {record.episode}  tick {tick}/{last}", success=record.success)
            for tick, observation in enumerate(seen)
        ]
        frames += frames[-1:] * round(_PAUSE_S * self.frames_per_second)
        name = f"{record.task}_{record.episode:03d}_{outcome}.mp4"
        write_video(self.folder / name, frames, frames_per_second=self.frames_per_second)


def picture(observation: Observation, *, caption: str, success: bool) -> UInt8[np.ndarray, "H W 3"]:
    """One picture of a film; both sides are even, as H.264 with halved colour needs them."""
    views = [_enlarged(image) for image in observation.images.values()]
    texts = [*_wrapped(observation.instruction, sum(view.width for view in views)), caption]
    header = _BORDER + (_LINE + 4) * len(texts)
    width = sum(view.width for view in views) + 2 * _BORDER
    height = max(view.height for view in views) + header + _BORDER
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), _COLOURS[success])
    draw, left = ImageDraw.Draw(canvas), _BORDER
    draw.rectangle((_BORDER, _BORDER, width - _BORDER - 1, header - 1), fill=(24, 24, 24))
    for line, text in enumerate(texts):
        colour = (160, 160, 160) if line == len(texts) - 1 else (255, 255, 255)
        draw.text((_BORDER + 6, _BORDER + line * (_LINE + 4)), text, fill=colour, font=_font())
    for view in views:
        canvas.paste(view, (left, header))
        left += view.width
    return np.asarray(canvas)


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], *, frames_per_second: float) -> None:
    """Write an mp4 that browsers play; the file appears under its name only when it is complete.

    Raises:
        ValueError: there are no frames.
    """
    pictures = list(frames)
    if not pictures:
        raise ValueError(f"no frames for {path}: film at least one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    with av.open(str(partial), "w", format="mp4") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def _enlarged(image: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    """At least `_HEIGHT` pixels high, without inventing detail."""
    factor = -(-_HEIGHT // image.shape[0])
    return Image.fromarray(image).resize((image.shape[1] * factor, image.shape[0] * factor), Image.Resampling.NEAREST)


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines that fit into `width` pixels; a single word may be wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font().getlength(longer) > width - 12:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_LINE - 3)
