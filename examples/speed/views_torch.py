"""One measurement of torchvision's SimCLR transforms: `python views_torch.py FOLDER` prints a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

SIDE, BATCH, WORKERS = 224, 32, 2


class Views(torch.utils.data.Dataset):
    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*.jp*g"))
        jitter = transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIDE),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([transforms.GaussianBlur(SIDE // 20 * 2 + 1, (0.1, 2.0))], 0.5),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), self.transform(image)


def main(folder: str) -> None:
    loader = torch.utils.data.DataLoader(
        Views(folder), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
    )
    started = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter() - started
    for _ in iterator:
        pass
    started, count = time.perf_counter(), 0
    for _ in loader:
        count += 2 * BATCH
    print(json.dumps({"views_per_second": count / (time.perf_counter() - started), "first_batch_seconds": first}))


if __name__ == "__main__":
    main(sys.argv[1])
