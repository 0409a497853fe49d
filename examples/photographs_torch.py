"""One run of photographs.py with lightly on torch: the same net, recipe, optimizer and budget.

    python photographs_torch.py TRAIN TEST OUT SIZE EPOCHS EVERY BATCH RATE SEED

Views come from lightly's SimCLRTransform in a DataLoader, images for evaluation from torchvision. After every EVERY
epochs it writes the features of all images to OUT/EPOCH.npz, and it goes on after the last epoch that was saved.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.transforms import SimCLRTransform
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

FILTERS, TEMPERATURE, WARM_UP = (32, 64, 128, 256), 0.2, 20  # a twentieth of the steps


class Residual(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(inputs, filters, 2), nn.ReLU(), *convolution(filters, filters, 1))
        self.shortcut = nn.Sequential(*convolution(inputs, filters, 2, 1))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(inputs: int, filters: int, strides: int, size: int = 3) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, filters, size, strides, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return [layer, nn.BatchNorm2d(filters)]


def resnet10() -> nn.Module:
    """`keras_tfcl.models.build_backbone("resnet10", 32)`, with torch's padding."""
    parts: list[nn.Module] = [*convolution(3, FILTERS[0], 1), nn.ReLU()]
    for inputs, filters in zip((FILTERS[0], *FILTERS), FILTERS, strict=False):
        parts.append(Residual(inputs, filters))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def features(encoder: nn.Module, folder: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()])
    loader = torch.utils.data.DataLoader(ImageFolder(folder, pixels), 256, num_workers=os.cpu_count() or 1)
    encoder.eval()
    with torch.no_grad():
        found = [(encoder(2 * x - 1).numpy(), y.numpy()) for x, y in loader]
    encoder.train()
    embedded, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    return embedded, labels


def main(
    train: str, test: str, out: Path, size: int, epochs: int, every: int, batch: int, rate: float, seed: int
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    encoder = resnet10()
    width = FILTERS[-1]
    head = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 128))
    model = nn.Sequential(encoder, head).to(memory_format=torch.channels_last)
    blur = 0.5 if size > 64 else 0.0
    recipe = SimCLRTransform(
        size, cj_strength=1.0 if size > 64 else 0.5, gaussian_blur=blur, normalize={"mean": [0.5] * 3, "std": [0.5] * 3}
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(train, recipe), batch, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1
    )
    steps = epochs * len(loader)
    warm_up = max(steps // WARM_UP, 1)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4, eps=1e-7)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / warm_up if step < warm_up else (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2
        ),
    )
    first, saved = 0, out / "run.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        first = state["epoch"]
        for part, kept in zip((model, optimizer, schedule), state["parts"], strict=True):
            part.load_state_dict(kept)
    loss_of = NTXentLoss(TEMPERATURE)
    for epoch in range(first + 1, epochs + 1):
        torch.manual_seed(1000 * seed + epoch)  # so that a run that was stopped draws the same views
        losses = []
        for (one, two), *_ in loader:
            views = torch.cat([one, two]).to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss = loss_of(*model(views).chunk(2))
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"lightly, epoch {epoch}/{epochs}: loss {np.mean(losses):.4f}", flush=True)
        if epoch % every == 0:
            (a, y), (b, z) = (features(encoder, folder, size) for folder in (train, test))
            np.savez(out / f"{epoch}.npz", loss=np.mean(losses), train=a, train_labels=y, test=b, test_labels=z)
        draft = saved.with_suffix(".tmp")
        torch.save({"epoch": epoch, "parts": [part.state_dict() for part in (model, optimizer, schedule)]}, draft)
        os.replace(draft, saved)


if __name__ == "__main__":
    size, epochs, every, batch = map(int, sys.argv[4:8])
    main(*sys.argv[1:3], Path(sys.argv[3]), size, epochs, every, batch, float(sys.argv[8]), int(sys.argv[9]))
