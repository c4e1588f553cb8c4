"""The networks of the classifiers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


def dense_network(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """``layers`` linear layers of ``hidden`` units, each with LeakyReLU, and a linear layer of logits."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    width = inputs
    for index in range(layers):
        parts[f"linear{index}"] = nn.Linear(width, hidden)
        parts[f"activation{index}"] = nn.LeakyReLU()
        width = hidden
    parts["logits"] = nn.Linear(width, outputs)
    return nn.Sequential(parts)


class PeriodicConvolution(nn.Module):
    """3D convolution over (layer, angle, radius): periodic in angle, zeros beyond the first and last layer and ring."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self._reach = kernel // 2
        reach = (self._reach, 0, self._reach)
        self.convolution = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=reach, bias=False)

    def forward(self, block: Tensor) -> Tensor:
        """(B, inputs, L, A, R) → (B, outputs, L', A', R')."""
        if self._reach:
            block = torch.cat([block[..., -self._reach :, :], block, block[..., : self._reach, :]], dim=3)
        result: Tensor = self.convolution(block)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = PeriodicConvolution(inputs, outputs, 3, stride)
        self.first_norm = nn.BatchNorm3d(outputs)
        self.second = PeriodicConvolution(outputs, outputs, 3, 1)
        self.second_norm = nn.BatchNorm3d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(PeriodicConvolution(inputs, outputs, 1, stride), nn.BatchNorm3d(outputs))

    def forward(self, block: Tensor) -> Tensor:
        """(B, inputs, L, A, R) → (B, outputs, L', A', R')."""
        inner = functional.relu(self.first_norm(self.first(block)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(block))


class ShowerResNet(nn.Module):
    """A 3D ResNet-18 over (layer, angle, radius) that also gets the incident energy.

    ``width`` is the number of channels of the first stage: 64 in ResNet-18. The stem halves the block, as there.
    """

    def __init__(self, block_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self._shape = block_shape
        stages: list[nn.Module] = [PeriodicConvolution(1, width, 3, 2), nn.BatchNorm3d(width), nn.ReLU()]
        channels = width
        for stage in range(4):
            outputs = width * 2**stage
            stages += [ResidualBlock(channels, outputs, 1 if stage == 0 else 2), ResidualBlock(outputs, outputs, 1)]
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.logits = nn.Linear(channels + 1, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, 1 + voxels): log10 E_inc, then voxels → (B, 1) logit."""
        block = rows[:, 1:].reshape(-1, 1, *self._shape)
        pooled = self.stages(block).mean(dim=(2, 3, 4))
        result: Tensor = self.logits(torch.cat([pooled, rows[:, :1]], dim=1))
        return result
