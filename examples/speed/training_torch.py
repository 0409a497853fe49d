"""One measurement in torch: `python training_torch.py loop on BATCH WIDTH STEPS` prints a line of JSON.

The network of training_keras.py, lightly's loss, torch's SGD, and torch.set_num_threads to all cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from baselines import TEMPERATURE, _declare_vision_operators
from torch import nn


def main(batch: int, width: int, steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    _declare_vision_operators()
    from lightly.loss import NTXentLoss

    head = [
        nn.Linear(8 * width, 8 * width, bias=False),
        nn.BatchNorm1d(8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, 128),
    ]
    # Convolutions are fastest with the channels last, as TensorFlow has them.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as TensorFlow has it; no change on a CPU
    model = nn.Sequential(resnet18(width), *head).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.06, momentum=0.9)
    loss = NTXentLoss(temperature=TEMPERATURE)
    views = torch.rand(2 * batch, 3, 32, 32).to(device, memory_format=torch.channels_last)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        value = loss(*model(views).chunk(2))
        value.backward()
        optimizer.step()
        value.item()
        times.append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"first": times[0], "times": times[1:], "parameters": parameters}))


class Residual(nn.Module):
    def __init__(self, inputs: int, filters: int, strides: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(inputs, filters, strides), nn.ReLU(), *convolution(filters, filters, 1))
        changed = inputs != filters or strides > 1
        self.shortcut = nn.Sequential(*convolution(inputs, filters, strides, 1)) if changed else nn.Identity()

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(width: int) -> nn.Module:
    parts, inputs = [*convolution(3, width, 1), nn.ReLU()], width
    for stage in range(4):
        for block in range(2):
            parts.append(Residual(inputs, width * 2**stage, 2 if stage and not block else 1))
            inputs = width * 2**stage
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def convolution(inputs: int, filters: int, strides: int, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, filters, size, strides, padding=size // 2, bias=False), nn.BatchNorm2d(filters)]


if __name__ == "__main__":
    main(*(int(size) for size in sys.argv[3:]))
