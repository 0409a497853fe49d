"""tables.md: every number of the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from results import FIXED, INFONCE, LABELS, SETTINGS, TUNED, Result, grid, regrets, signed

GEOMETRY = ("uniformity", "tolerance", "mean_cosine", "effective_rank")


def tables(results: Sequence[Result]) -> str:
    names = [result.dataset for result in results]
    parts = [
        "# Benchmarks: all numbers",
        "Written by `python examples/benchmarks/table.py` from the CSV files of this folder. "
        "Mean ± standard deviation over seeds.",
        "## Test metric",
        "In bold the τ that is best on validation. Below are what the columns hold, and baselines.",
        grid(["setting", *names], [[setting, *(cell(result, setting) for result in results)] for setting in SETTINGS]),
        grid(["", *names], about(results)),
        "## Paired difference to the τ tuned on validation, with its 95 % interval",
        grid(["method", *names], differences(results, [result.tuned for result in results])),
    ]
    for fixed in FIXED:
        parts += [f"## Paired difference to {LABELS[fixed]}"]
        parts += [grid(["method", *names], differences(results, [fixed] * len(results)))]
    rows = [[LABELS[name], *(f"{value:.2f}" for value in regrets(results, name))] for name in (*SETTINGS, TUNED)]
    parts += ["## Regret", grid(["method", *names], rows)]
    rows = [
        [f"{other.dataset} ({LABELS[other.tuned]})", *(f"{result.regret(other.tuned):.2f}" for result in results)]
        for other in results
    ]
    parts += ["## Regret of a τ that was tuned on another data set", grid(["tuned on", *names], rows)]
    for column in GEOMETRY:
        rows = [[setting, *(geometry(result, setting, column) for result in results)] for setting in SETTINGS]
        parts += [f"## {column.replace('_', ' ').capitalize()} of what the loss sees", grid(["setting", *names], rows)]
    return "\n\n".join(parts) + "\n"


def cell(result: Result, setting: str) -> str:
    values = list(result.test[setting].values())
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    text = f"{np.mean(values):.4f}{spread}"
    return f"**{text}**" if setting == result.tuned else text


def about(results: Sequence[Result]) -> list[list[str]]:
    baselines = dict.fromkeys(name for result in results for name in result.baselines)
    return [
        ["metric", *(result.metric for result in results)],
        ["seeds", *(str(result.seeds) for result in results)],
        ["hours of the search for τ", *(f"{result.hours(INFONCE):.2f}" for result in results)],
        *([name, *(f"{r.baselines[name]:.4f}" if name in r.baselines else "–" for r in results)] for name in baselines),
    ]


def differences(results: Sequence[Result], references: Sequence[str]) -> list[list[str]]:
    """Each setting minus the reference of each data set."""
    rows = []
    for setting in SETTINGS:
        row = [setting]
        for result, reference in zip(results, references, strict=True):
            difference = result.against(setting, reference)
            interval = f" [{signed(difference.low, 4)}, {signed(difference.high, 4)}] {difference.verdict}"
            row.append("–" if setting == reference else signed(difference.mean, 4) + interval)
        rows.append(row)
    return rows


def geometry(result: Result, setting: str, column: str) -> str:
    values = [float(row[column]) for row in result.rows[setting] if row[column]]
    return f"{np.mean(values):.3f}" if values else "–"
