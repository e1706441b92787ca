"""Pictures, words and state in, a chunk of actions out: convolutions that the sentence steers, and three linear layers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_POINTS, _CELLS, _POOLED = 32, 4, 128
_GROUPS = 8
_ROWS = 512
"""Of each of two tables of words."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What fixes the shapes of a network's weights."""

    cameras: int
    """V."""
    state_dimension: int
    """S; 0 for a robot without a state."""
    action_dimension: int
    """A."""
    horizon: int
    """T."""
    width: int
    """Channels behind the first convolution; two and three times as many follow."""
    hidden: int
    """Of the linear layers."""
    told: int
    """Numbers that a sentence becomes."""
    state_noise: float
    """Standard deviation of what is added to the normalised state in training, so that it is no clock to play actions back by."""

    def __post_init__(self) -> None:
        least = {"state_dimension": 0, "state_noise": 0, "width": _GROUPS, "told": 1, "hidden": 1}
        for name in ("cameras", "action_dimension", "horizon", *least):
            if not least.get(name, 1) <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name}={getattr(self, name)}: {least.get(name, 1)} to {_MOST}.")
        if self.width % _GROUPS:
            raise ValueError(f"width={self.width} must be a multiple of {_GROUPS}, over which channels are normalised.")


_MOST = 4096


class BCNetwork(nn.Module):
    """One eye for each camera, each steered by the sentence; what they see, the sentence and the state lead to the chunk.

    The parts are well known: FiLM (arXiv 1709.07871), points by a spatial softmax (arXiv 1504.00702), words by convolution (arXiv
    1408.5882) over hashed embeddings (arXiv 1709.03933), chunks (arXiv 2304.13705). With two cameras, a state of 8, chunks of 16
    by 7 and the sizes of `conf/model/bc.yaml` it has 1.83 million parameters.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = Sentence(sizes.told)
        self.eyes = nn.ModuleList(Eye(sizes.width, sizes.told) for _ in range(sizes.cameras))
        seen = sizes.cameras * (2 * _POINTS + _POOLED) + sizes.told + sizes.state_dimension
        values = sizes.horizon * sizes.action_dimension
        layers = (nn.Linear(seen, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.hidden), nn.ReLU())
        self.chunk = nn.Sequential(*layers, nn.Linear(sizes.hidden, values))

    def forward(
        self,
        pixels: Float[Tensor, "B V 3 H W"],
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        state: Float[Tensor, "B S"],
    ) -> Float[Tensor, "B T A"]:
        """Normalised actions; `mask` is False where a sentence is padded. The last layers compute in float32."""
        told = self.words(ids, mask)
        seen = [eye(pixels[:, view], told) for view, eye in enumerate(self.eyes)]
        if self.training:
            state = state + self.sizes.state_noise * torch.randn_like(state)
        with torch.autocast(pixels.device.type if not pixels.is_meta else "cpu", enabled=False):
            values = self.chunk(torch.cat([part.float() for part in (*seen, told, state)], dim=1))
        return values.unflatten(1, (self.sizes.horizon, self.sizes.action_dimension))


class Sentence(nn.Module):
    """Words -> numbers. A word is the sum of a row of each of two tables, so that hardly any two words are the same.

    A convolution over three words at a time sees their order; what it finds is summed, and divided by the root of their number.
    """

    def __init__(self, told: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(_ROWS, told) for _ in range(2))
        self.phrases = nn.Conv1d(told, told, 3, padding=1)

    def forward(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B told"]:
        """What lies behind the end of a sentence changes nothing."""
        words = self.tables[0](ids % _ROWS) + self.tables[1](ids // _ROWS % _ROWS)
        seen = mask[:, None].to(words.dtype)
        phrases = F.relu(self.phrases(words.mT * seen)) * seen
        return phrases.sum(dim=2) / seen.sum(dim=2).sqrt()


class Eye(nn.Module):
    """A picture -> 32 points where something is, and what is in each of 4 x 4 cells."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 2, 1)
        steps = ((width, 2 * width, 2), (2 * width, 3 * width, 2), (3 * width, 3 * width, 1))
        self.blocks = nn.ModuleList(Block(inputs, outputs, stride, told) for inputs, outputs, stride in steps)
        self.points = nn.Conv2d(3 * width, _POINTS, 1)
        self.pooled = nn.Linear(3 * width * _CELLS**2, _POOLED)

    def forward(self, picture: Float[Tensor, "B 3 H W"], told: Float[Tensor, "B told"]) -> Float[Tensor, "B features"]:
        """Places lie in [-1, 1]."""
        seen = F.relu(self.stem(picture.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks:
            seen = block(seen, told)
        cells = F.adaptive_avg_pool2d(seen.float(), _CELLS).flatten(1)
        return torch.cat([_places(self.points(seen).float()), self.pooled(cells).float()], dim=1)


class Block(nn.Module):
    """Two convolutions beside a shorter way; what a sentence is about is made larger, what not, smaller."""

    def __init__(self, inputs: int, outputs: int, stride: int, told: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.first_norm, self.second_norm = nn.GroupNorm(_GROUPS, outputs), nn.GroupNorm(_GROUPS, outputs)
        self.film = nn.Linear(told, 2 * outputs)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.short = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, seen: Float[Tensor, "B C H W"], told: Float[Tensor, "B told"]) -> Float[Tensor, "B D h w"]:
        """The picture, smaller by the stride."""
        scale, shift = self.film(told)[..., None, None].chunk(2, dim=1)
        # with the channels last in memory GroupNorm would take twice as long on a CPU
        first = F.relu(self.first_norm(self.first(seen).contiguous()))
        found = self.second_norm(self.second(first).contiguous())
        return F.relu(found * (1 + scale) + shift + self.short(seen))


def _places(heat: Float[Tensor, "B P h w"]) -> Float[Tensor, "B two_P"]:
    """Where each map is hot: the mean place under its softmax, first across, then down."""
    shares = heat.flatten(2).softmax(dim=2).view_as(heat)
    down, across = (torch.linspace(-1, 1, side, device=heat.device) for side in heat.shape[2:])
    return torch.cat([(shares.sum(dim=2) * across).sum(dim=2), (shares.sum(dim=3) * down).sum(dim=2)], dim=1)
