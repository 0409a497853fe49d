"""Files of images for tests that read folders."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(folder: Path, count: int, size: int = 40) -> None:
    """Writes smooth random images as JPEG files 0000.jpg, 0001.jpg, ..., all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=95)
