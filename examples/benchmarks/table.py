"""Recomputes the page of the benchmarks, all numbers and the figure from the committed CSV files; trains nothing.

    python examples/benchmarks/table.py

Writes examples/results/README.md, benchmarks/tables.md and benchmarks/regret.png beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from all_numbers import tables
from analysis import INFONCE
from page import page
from results import ARCTANH, LABELS, OTHERS, TUNED, Result, decisive, read, read_rows, regrets

RESULTS = Path(__file__).parents[1] / "results"


def main(folder: Path = RESULTS) -> None:
    results = read(folder / "benchmarks")
    (folder / "README.md").write_text(page(results, read_rows(folder / "benchmarks" / "scale_law.csv")))
    if results:
        (folder / "benchmarks" / "tables.md").write_text(tables(results))
        draw(results, folder / "benchmarks" / "regret.png")
    print(f"Written: {folder / 'README.md'}, from {len(results)} data sets")


def draw(results: Sequence[Result], path: Path) -> None:
    """Regret by method: a mark for each data set on which the temperature matters, a bar for the mean."""
    results = decisive(results)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = [*ARCTANH, TUNED, *INFONCE, *OTHERS]
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    positions = np.arange(len(methods))[::-1]
    means = [np.nanmean(regrets(results, name)) for name in methods]
    colours = [
        "tab:orange" if name in ARCTANH else "tab:green" if name == TUNED else "lightsteelblue" for name in methods
    ]
    axes.barh(positions, means, color=colours, alpha=0.6, height=0.7)
    for index, result in enumerate(results):
        values = [regrets(results, name)[index] for name in methods]
        marker = "osD^vP*X<>hp"[index % 12]
        axes.plot(values, positions, marker, label=result.dataset, markersize=6, alpha=0.8)
    axes.set_yticks(positions, [LABELS[name] for name in methods])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("regret: 0 is the best of seven temperatures on the test set, 1 the worst; the bar is the mean")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
