"""Vision width -> language width."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SingleProjector(nn.Module):
    """fc1, GELU, fc2: the projector of one vision tower (Prismatic's `gelu-mlp`)."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch D"]:
        """Features in the language model's width."""
        return self.fc2(F.gelu(self.fc1(features)))


class FusedProjector(nn.Module):
    """fc1, GELU, fc2, GELU, fc3: the projector of two fused towers (Prismatic's `fused-gelu-mlp`)."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch D"]:
        """Features in the language model's width."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))


class ProprioProjector(SingleProjector):
    """The robot's state as one token (OpenVLA-OFT, arXiv 2502.19645, §4): fc1, GELU, fc2."""
