"""Times views of photographs, from JPEG files to augmented 224 x 224: `python examples/speed/views.py --peers PYTHON`.

`keras_tfcl.data.image_views` beside torchvision's SimCLR transforms in a DataLoader with two workers (`--peers`, a
Python with torch and torchvision). Both crop at random, flip, change colours, make grey and blur, two views of each
image. Rounds alternate, each in a fresh process, so that a slow minute of the machine hits both. The photographs are
windows of the two that scikit-learn ships, saved as JPEG files of 500 x 375; `--data FOLDER` takes your own.
Writes examples/results/speed_views.md, with a table by operation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "speed_views.md"
OURS, PEER = "keras_tfcl", "torchvision, 2 workers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python interpreter with torch and torchvision")
    parser.add_argument("--data", type=Path, help="a folder of JPEG files")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers = {OURS: (sys.executable, "views_keras.py")}
    if options.peers:
        workers[PEER] = (options.peers, "views_torch.py")
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_photographs(Path(folder), options.images)
        measured: dict[str, list[dict]] = {name: [] for name in workers}
        for _ in range(options.rounds):
            for name, (python, script) in workers.items():
                done = subprocess.run(
                    [python, HERE / script, data], capture_output=True, text=True, check=True, env={**os.environ}
                )
                measured[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(name, measured[name][-1], flush=True)
    write(measured, options)


def make_photographs(folder: Path, count: int) -> Path:
    """Saves random windows of real photographs as JPEG files of 500 x 375."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(count):
        image = photographs[i % len(photographs)]
        width = int(rng.integers(300, image.width))
        height = min(width * 3 // 4, image.height)
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        window = image.resize((500, 375), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        window.save(folder / f"{i:05}.jpg", quality=90)
    return folder


def write(measured: dict[str, list[dict]], options: argparse.Namespace) -> None:
    """Prints and saves the tables."""
    lines = [
        "# Views of photographs: speed",
        "",
        "From JPEG files of 500 x 375 to two augmented views of 224 x 224: views a second, median of "
        f"{options.rounds} alternating rounds (least to most).",
        "",
        f"Command: `python examples/speed/views.py --images {options.images} --rounds {options.rounds}"
        f"{' --peers PYTHON' if options.peers else ''}`; {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}. No GPU was measured.",
        "",
        "| | views a second | first batch, seconds |",
        "|---|---|---|",
    ]
    for name, rounds in measured.items():
        rates = [r["views_per_second"] for r in rounds]
        lines.append(
            f"| {name} | {statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) | "
            f"{statistics.median(r['first_batch_seconds'] for r in rounds):.1f} |"
        )
    if PEER in measured:
        ratios = [a["views_per_second"] / b["views_per_second"] for a, b in zip(*measured.values(), strict=True)]
        lines += [
            "",
            f"Ratio within a round: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).",
        ]
    lines += ["", "Processor time of each operation, ms a view (one view at a time, as the stream does it):", ""]
    lines += ["| operation | ms |", "|---|---|"]
    operations = measured[OURS][0]["operations"]
    for operation in operations:
        milliseconds = statistics.median(r["operations"][operation] for r in measured[OURS])
        lines.append(f"| {operation} | {milliseconds:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
