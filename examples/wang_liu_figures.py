"""Table 1 and figures 4 to 9 of Wang and Liu 2021, redrawn from the rows of wang_liu_2021.py and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from wang_liu_findings import PAPER, Results, Summary, findings

from keras_tfcl.atomic_write import atomic_write, write_atomically
from keras_tfcl.diagnostics import SimilarityProfile, plot_similarity_profile

NEAREST = [f"n{i + 1}" for i in range(10)]
SPREAD = (
    "A finding holds (yes) if each difference it rests on, taken by seed, exceeds its standard deviation over seeds, "
    "fails (no) if one is below minus that, and is unclear otherwise, and always with one seed."
)
SETS = {"cifar10_jpeg": "CIFAR-10 (re-encoded as JPEG)", "fashion_mnist": "Fashion-MNIST", "mnist5k": "MNIST, 5,000"}


def draw(rows: list[dict[str, Any]], stem: Path) -> list[Path]:
    """Writes STEM.md and STEM.png."""
    results = summarize(rows)
    page, image = Path(f"{stem}.md"), Path(f"{stem}.png")
    with atomic_write(image) as draft:
        figures(results, title(rows)).savefig(draft, dpi=110)
    write_atomically(page, report(rows, results, image.name).encode())
    return [page, image]


def summarize(rows: list[dict[str, Any]]) -> Results:
    """Each setting's summary of every column that holds numbers."""
    results: Results = {}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        columns = [name for name, value in own[0].items() if isinstance(value, (int, float))]
        results[setting] = {name: Summary({row["seed"]: float(row[name]) for row in own}) for name in columns}
    return results


def title(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    seeds = len({row["seed"] for row in rows})
    return (
        f"{SETS.get(first['data'], first['data'])}, {first['images']:,} images, {first['epochs']} epochs of batches of "
        f"{first['batch_size']}, {seeds} seed{'s' * (seeds > 1)}"
    )


def command(row: dict[str, Any]) -> str:
    """The command that makes such rows."""
    data = "PATH/cifar10_jpeg.zip" if row["data"] == "cifar10_jpeg" else row["data"]
    names = ("images", "test_images", "epochs", "batch_size", "learning_rate", "precision")
    options = " ".join(f"--{name.replace('_', '-')} {row[name]}" for name in names)
    return f"python examples/wang_liu_2021.py --data {data} {options}"


def curve(results: Results, kind: str, column: str) -> tuple[list[float], list[Summary]]:
    """Values of a column by temperature for "infonce" and "hard", by 1 / scale for "arctanh" and "hard arctanh"."""
    found = [(float(name.rpartition(" ")[2]), name) for name in results if _kind(name) == kind]
    points = sorted((1 / value if kind.endswith("arctanh") else value, name) for value, name in found)
    return [x for x, _ in points], [results[name][column] for _, name in points]


def figures(results: Results, heading: str) -> Figure:
    """Figures 4 to 9 as six panels."""
    figure = Figure(figsize=(16, 9), layout="constrained")
    figure.suptitle(f"Wang and Liu 2021, figures 4 to 9: {heading}")
    panels = figure.subplots(2, 3)
    ordinary, hard = ("infonce", "arctanh"), ("hard", "hard arctanh")
    by_temperature(panels[0, 0], results, ordinary, "uniformity", "Figure 4: uniformity, all negatives")
    by_temperature(panels[0, 1], results, ordinary, "tolerance", "Figure 5: tolerance, all negatives")
    profiles(panels[0, 2], results)
    by_temperature(panels[1, 0], results, hard, "uniformity", "Figure 6: uniformity, hard negatives")
    by_temperature(panels[1, 1], results, hard, "tolerance", "Figure 7: tolerance, hard negatives")
    by_temperature(panels[1, 2], results, ordinary + hard, "linear_accuracy", "Figure 9: accuracy of a linear probe")
    for column in (0, 1):  # as in the paper, ordinary and hard are to be compared by eye
        limits = [panels[row, column].get_ylim() for row in (0, 1)]
        for row in (0, 1):
            panels[row, column].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


LABELS = {"infonce": "InfoNCE", "hard": "hard", "arctanh": "arctanh, at 1 / scale", "hard arctanh": "hard arctanh"}
BASELINES = {"simple": ("infonce", ":"), "hard-simple": ("hard", "-."), "untrained": ("", "--")}  # beside which curve


def by_temperature(axes: Axes, results: Results, kinds: tuple[str, ...], column: str, heading: str) -> None:
    for kind in kinds:
        x, summaries = curve(results, kind, column)
        if x:
            style = "s--" if kind.endswith("arctanh") else "o-"
            means, deviations = [s.mean for s in summaries], [s.deviation for s in summaries]
            axes.errorbar(x, means, deviations, fmt=style, capsize=3, label=LABELS[kind])
    for name, (beside, style) in BASELINES.items():
        if name in results and beside in ("", *kinds):
            axes.axhline(results[name][column].mean, linestyle=style, color="grey", label=name)
    label = {"linear_accuracy": "share of test images", "tolerance": "mean cosine within a class"}.get(column, column)
    axes.set(xlabel="temperature (arctanh: 1 / scale)", ylabel=label, title=heading)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def profiles(axes: Axes, results: Results) -> None:
    chosen = [name for name in results if _kind(name) in ("infonce", "arctanh")]
    drawn = {}
    for name in chosen:
        own = results[name]
        drawn[name] = SimilarityProfile(own["positive"].mean, np.array([own[n].mean for n in NEAREST]), 0.0, 0)
    if drawn:
        plot_similarity_profile(drawn, axes)
        for line in axes.get_lines():
            line.set_linestyle("--" if line.get_label().startswith("arctanh") else "-")  # colours repeat
        axes.set_ylim(bottom=axes.get_ylim()[0] - 0.15)  # room for the legend
        axes.legend(fontsize=7, ncol=2, loc="lower right")
    axes.set_title("Figure 8: positive and nearest negatives")


def report(rows: list[dict[str, Any]], results: Results, image: str) -> str:
    lines = [
        "# Wang and Liu 2021 on a small scale",
        "",
        f"{title(rows)}; accuracies on {rows[0]['test_images']:,} test images. Trained by `{command(rows[0])}`; this "
        "page and its image hold nothing but the CSV file beside them (`--draw`). Mean ± standard deviation over "
        "seeds. The paper trained a ResNet-18 on all of CIFAR-10 for 200 epochs with a memory bank: compare how the "
        "figures move from setting to setting, not the figures.",
        "",
        "| setting | seeds | linear | kNN | uniformity | tolerance | eff. rank | paper: linear % | unif. | tol. |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in results.items():
        columns = ("linear_accuracy", "knn_accuracy", "uniformity", "tolerance", "effective_rank")
        ours = " | ".join(str(own[c]) if c in own else "" for c in columns)
        paper = " | ".join(str(value) for value in PAPER.get(name, ("", "", "")))
        lines.append(f"| {name} | {own['linear_accuracy'].seeds} | {ours} | {paper} |")
    lines += ["", "## Findings", "", SPREAD, "", "| finding | here | holds |", "|---|---|---|"]
    lines += [f"| {f.claim} | {f.here} | {f.holds} |" for f in findings(results)]
    return "\n".join([*lines, "", f"![Figures 4 to 9]({image})", ""])


def _kind(setting: str) -> str:
    return setting.rpartition(" ")[0]
