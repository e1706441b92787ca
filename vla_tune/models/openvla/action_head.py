"""Hidden states -> action values: the regression head of OpenVLA-OFT (arXiv 2502.19645, §4), under its names."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ActionHead(nn.Module):
    """An MLP-ResNet that reads the A hidden states of one action at once.

    u = relu(fc1(norm1(x))), twice u + relu(linear(norm(u))), fc2(norm2(u)); x is [T, A D], fc1 leads to D and fc2 to A.
    """

    def __init__(self, width: int, action_dimension: int, num_blocks: int = 2) -> None:
        super().__init__()
        self.action_dimension = action_dimension
        self.model = _ResNet(action_dimension * width, width, action_dimension, num_blocks)

    def forward(self, hidden: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Normalised actions, float32, from the states that predict K = T A placeholders, time-major."""
        actions = hidden.unflatten(1, (-1, self.action_dimension)).flatten(2)
        return self.model(actions.to(self.model.fc1.weight.dtype)).float()


class _ResNet(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, num_blocks: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Block(width) for _ in range(num_blocks))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, inputs: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch A"]:
        inner = F.relu(self.fc1(self.layer_norm1(inputs)))
        for block in self.mlp_resnet_blocks:
            inner = block(inner)
        return self.fc2(self.layer_norm2(inner))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, inner: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return inner + self.ffn(inner)
