"""One run of photographs.py with lightly on torch: the same net, recipe, optimizer and budget.

    python photographs_torch.py TRAIN TEST OUT SIZE EPOCHS EVERY BATCH RATE TEMPERATURE SEED

Views come from lightly's SimCLRTransform in a DataLoader, images for evaluation from torchvision. Before training and
after every EVERY epochs it writes the features of all images to OUT/EPOCH.npz. It continues after its last epoch.
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

FILTERS, WARM_UP = (32, 64, 128, 256), 20  # a twentieth of the steps
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def keep(encoder: nn.Module, train: str, test: str, size: int, file: Path, loss: float) -> None:
    """Writes the features of all images."""
    pixels = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()])
    parts: dict[str, np.ndarray] = {}
    encoder.eval()
    for name, folder in (("train", train), ("test", test)):
        loader = torch.utils.data.DataLoader(ImageFolder(folder, pixels), 256, num_workers=WORKERS)
        with torch.no_grad():
            found = [(encoder(2 * x - 1).numpy().astype("float16"), y.numpy()) for x, y in loader]
        parts[name], parts[f"{name}_labels"] = (np.concatenate(part) for part in zip(*found, strict=True))
    encoder.train()
    draft = file.with_name("draft.npz")
    np.savez(draft, loss=loss, **parts)
    os.replace(draft, file)


def main(
    train: str,
    test: str,
    out: Path,
    size: int,
    epochs: int,
    every: int,
    batch: int,
    rate: float,
    temperature: float,
    seed: int,
) -> None:
    if size > 64:
        raise ValueError(f"SIZE must be at most 64: the net is resnet10's form for small images. Received: {size}.")
    torch.manual_seed(seed)
    encoder = resnet10()
    width = FILTERS[-1]
    head = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 128))
    model = nn.Sequential(encoder, head).to(memory_format=torch.channels_last)
    normalize = {"mean": [0.5] * 3, "std": [0.5] * 3}
    recipe = SimCLRTransform(size, cj_strength=0.5, gaussian_blur=0.0, normalize=normalize)  # as for CIFAR-10
    loader = torch.utils.data.DataLoader(
        ImageFolder(train, recipe), batch, shuffle=True, drop_last=True, num_workers=WORKERS
    )
    steps = epochs * len(loader)
    warm_up = steps // WARM_UP

    def factor(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        return (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2

    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4, eps=1e-7)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    first, saved = 0, out / "run.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        first = state["epoch"]
        for part, kept in zip((model, optimizer, schedule), state["parts"], strict=True):
            part.load_state_dict(kept)
    else:
        keep(encoder, train, test, size, out / "0.npz", float("nan"))
    loss_of = NTXentLoss(temperature)
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
        print(f"lightly, seed {seed}, epoch {epoch}/{epochs}: loss {np.mean(losses):.4f}", flush=True)
        if epoch % every == 0 or epoch == epochs:
            keep(encoder, train, test, size, out / f"{epoch}.npz", float(np.mean(losses)))
        draft = saved.with_suffix(".draft")
        torch.save({"epoch": epoch, "parts": [part.state_dict() for part in (model, optimizer, schedule)]}, draft)
        os.replace(draft, saved)


if __name__ == "__main__":
    size, epochs, every, batch = map(int, sys.argv[4:8])
    rate, temperature = map(float, sys.argv[8:10])
    main(*sys.argv[1:3], Path(sys.argv[3]), size, epochs, every, batch, rate, temperature, int(sys.argv[10]))
