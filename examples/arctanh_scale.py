"""What the scale of the arctanh loss is: two simulations with random unit vectors, and one figure.

    python examples/arctanh_scale.py            # writes examples/results/arctanh_scale.csv and .png, in seconds

Left: how much cosines, and their arctanh, vary around a common mean. Fisher (1921) found that arctanh stabilises the
variance of a correlation. Right: how many of the negatives count at the start of training, when embeddings are random.
It is exp(entropy of their shares) divided by their number, so that 1 is the simple loss without any hardness.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from scipy.special import polygamma

from keras_tfcl.diagnostics import write_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
DIMENSIONS = (32, 64, 128, 256, 512)
MEANS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
SCALES = {"c = 2": lambda d: 2.0, "c = 8": lambda d: 8.0, "c = √(D - 2)": lambda d: np.sqrt(d - 2)}
NEGATIVES, PAIRS, SEED = 510, 20_000, 0


def main() -> None:
    rng = np.random.default_rng(SEED)
    rows = [row for mean in MEANS for row in spread_around(mean, 128, rng)]
    rows += [effective_share(name, dimension, rng) for name in SCALES for dimension in DIMENSIONS]
    write_table(RESULTS / "arctanh_scale.csv", rows)
    draw(rows)
    for d in DIMENSIONS:
        exact = np.sqrt(polygamma(1, (d - 1) / 2) / 2)
        print(f"D = {d}: unit variance needs c = {1 / exact:.3f}; √(D - 2) = {np.sqrt(d - 2):.3f}")


def spread_around(mean: float, dimension: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Draws pairs of vectors whose coordinates correlate by `mean`, and measures the spread of s and arctanh(s)."""
    a = rng.normal(size=(PAIRS, dimension))
    b = mean * a + np.sqrt(1 - mean**2) * rng.normal(size=(PAIRS, dimension))
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    curves = {"√(D - 2)·s": cosine, "√(D - 2)·arctanh(s)": np.arctanh(cosine)}
    scale = np.sqrt(dimension - 2)
    return [
        {"figure": "spread", "curve": name, "x": mean, "y": round(float(scale * values.std()), 4)}
        for name, values in curves.items()
    ]


def effective_share(name: str, dimension: int, rng: np.random.Generator) -> dict[str, object]:
    """Measures which share of the negatives counts for an anchor among random embeddings, by the entropy."""
    x = rng.normal(size=(200, NEGATIVES, dimension))
    cosine = x[..., 0] / np.linalg.norm(x, axis=-1)
    weights = np.exp(SCALES[name](dimension) * np.arctanh(cosine))
    share = weights / weights.sum(1, keepdims=True)
    effective = np.exp(-(share * np.log(share)).sum(1)) / NEGATIVES
    return {"figure": "share", "curve": name, "x": dimension, "y": round(float(effective.mean()), 4)}


def draw(rows: list[dict[str, object]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    labels = {
        "spread": ("mean cosine of the embeddings", "standard deviation"),
        "share": ("dimensions D", "share of the negatives that count"),
    }
    for ax, (name, (x, y)) in zip(axes, labels.items(), strict=True):
        curves = dict.fromkeys(row["curve"] for row in rows if row["figure"] == name)
        for curve in curves:
            points = [(row["x"], row["y"]) for row in rows if row["figure"] == name and row["curve"] == curve]
            ax.plot(*zip(*points, strict=True), marker="o", label=curve)
        ax.set(xlabel=x, ylabel=y, ylim=(0, 1.1))
        ax.legend(frameon=False)
        ax.grid(alpha=0.3)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(DIMENSIONS, [str(d) for d in DIMENSIONS])
    figure.tight_layout()
    figure.savefig(RESULTS / "arctanh_scale.png", dpi=130)


if __name__ == "__main__":
    main()
