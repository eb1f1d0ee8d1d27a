"""The convolutional networks that the demo and the benchmarks compress."""

from __future__ import annotations

import torch
from torch import nn

#: Channels of the convolutions and sizes of the hidden layers, by the kind of the network.
WIDTHS = {"lenet5": (6, 16, 120, 84), "small": (8, 16, 120, 84)}


class ConvNet(nn.Module):
    """Two convolutions and three linear layers; the last one is the classifier.

    ``"lenet5"`` (28 x 28): conv 1→6 (5x5, padding 2), pool, conv 6→16 (5x5), pool, 400→120→84→10.
    ``"small"`` (8 x 8): conv 1→8 (3x3), conv 8→16 (3x3), pool, 256→120→84→10.
    `hidden` replaces the sizes 120 and 84, `channels` those of the convolutions.
    """

    def __init__(self, kind: str, hidden: tuple[int, int] | None = None, channels: tuple[int, int] | None = None):
        super().__init__()
        first, second = channels or WIDTHS[kind][:2]
        if kind == "lenet5":
            self.conv1, self.conv2 = nn.Conv2d(1, first, 5, padding=2), nn.Conv2d(first, second, 5)
            self.pool1, features = nn.MaxPool2d(2), 25 * second
        else:
            self.conv1, self.conv2 = nn.Conv2d(1, first, 3, padding=1), nn.Conv2d(first, second, 3, padding=1)
            self.pool1, features = nn.Identity(), 16 * second
        self.pool2 = nn.MaxPool2d(2)
        first, second = hidden or WIDTHS[kind][2:]
        self.fc1, self.fc2, self.fc3 = nn.Linear(features, first), nn.Linear(first, second), nn.Linear(second, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x))).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
