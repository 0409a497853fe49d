"""Trains every setting of a task with every seed, and keeps the test set sealed until a second command opens it.

    python examples/benchmarks/TASK.py train [--datasets D ...] [--settings S ...] [--seeds 0 1 ...] [--minutes M]
    python examples/benchmarks/TASK.py test

`train` writes a run's outputs under runs/benchmarks/ and then its row, with validation metrics and geometry, to
examples/results/benchmarks/TASK.csv. Rows that are there are not repeated, so a killed command loses one run. `test`
computes the test metrics from the stored outputs, once, into TASK_test.csv.

Outputs whose name begins with "test_" are withheld from `Task.validate`: no choice can rest on them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from candidates import CANDIDATES
from settings import SETTINGS, build

import keras_tfcl
from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.diagnostics import read_table, write_table
from keras_tfcl.evaluation import effective_rank, gaussian_potential, tolerance, uniformity

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "examples" / "results" / "benchmarks"
RUNS = ROOT / "runs" / "benchmarks"
DATA = Path(os.environ.get("KERAS_TFCL_DATA", ROOT.parent / "shared" / "data"))  # data sets that are no package's
SEEDS = range(7)
GEOMETRY_SAMPLES = 1000

Metrics = dict[str, float]
Row = dict[str, object]


class Trained(NamedTuple):
    """A finished run.

    Attributes:
        outputs: arrays from which the metrics are computed. Names that begin with `"test_"` are of the test set.
        embeddings: `(N, D)`, a sample of what the loss sees, of training or validation data, for the geometry.
        labels: `(N,)` integers, or None if the data have none.
    """

    outputs: dict[str, np.ndarray]
    embeddings: np.ndarray
    labels: np.ndarray | None


class Task(Protocol):
    """A task of the benchmark.

    Attributes:
        name: of the task and its files.
        datasets: names of the data sets, each with rows of its own.
        metric: the main metric, in [0, 1], larger is better.
    """

    name: str
    datasets: tuple[str, ...]
    metric: str

    def dimension(self, dataset: str) -> int:
        """D of the embeddings that the loss sees."""

    def loss_keywords(self, dataset: str) -> dict[str, object]:
        """Keywords of the loss that this task needs, such as `{"cross_view_only": True}`."""
        return {}

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        """Trains from scratch; Keras' random generators are seeded before."""

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        """Metrics on validation data, from the outputs without those of the test set."""

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        """The same metrics on test data."""

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        """Test metrics of what needs no training, by name."""


class Table:
    """The rows of a CSV file, which is replaced as a whole whenever a row is added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = read_table(path) if path.exists() else []

    def find(self, dataset: str, setting: str, seed: int) -> Row | None:
        key = (dataset, setting, seed)
        return next((row for row in self.rows if (row["dataset"], row["setting"], row["seed"]) == key), None)

    def add(self, row: Row) -> None:
        """Adds a row, in place of one of the same run."""
        old = self.find(str(row["dataset"]), str(row["setting"]), int(str(row["seed"])))
        self.rows = [other for other in self.rows if other is not old] + [row]
        write_table(self.path, self.rows)


def main(task: Task, settings: Sequence[str] = tuple(SETTINGS), has_test: bool = True) -> None:
    """The command line of a task.

    Args:
        task: the task.
        settings: a seed is complete when all of them are trained. `CANDIDATES` are trained if `--settings` names them.
        has_test: whether there are test metrics. Without them, outputs that were lost are not needed again.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "test"] if has_test else ["train"])
    parser.add_argument("--datasets", nargs="+", default=task.datasets, choices=task.datasets, metavar="NAME")
    parser.add_argument("--settings", nargs="+", default=settings, choices=(*settings, *CANDIDATES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run that would end later")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the outputs")
    parser.add_argument("--tiny", action="store_true", help="seconds a run, to see that it works; rows go to RUNS")
    options = parser.parse_args(namespace=argparse.Namespace(has_test=has_test))
    results = options.runs if options.tiny else RESULTS
    trained, tested = (Table(results / f"{task.name}{suffix}.csv") for suffix in ("", "_test"))
    if options.command == "train":
        train(task, options, trained, tested)
    else:
        options.settings = settings
        test(task, options, trained, tested)


def train(task: Task, options: argparse.Namespace, trained: Table, tested: Table) -> None:
    """Trains what has no row yet, all settings of the first seed first, as long as the time suffices.

    A run is repeated if its outputs were lost before they were tested, such as on another machine.
    """
    started, longest = time.monotonic(), 0.0
    for seed, dataset, setting in wanted(options):
        missing = options.has_test and not outputs_path(options, task, dataset, setting, seed).exists()
        if trained.find(dataset, setting, seed) and (not missing or tested.find(dataset, setting, seed)):
            continue
        run_started = time.monotonic()
        if run_started + longest - started > 60 * options.minutes:
            print(f"{task.name}: the next run would end after {options.minutes:g} minutes", flush=True)
            return
        row = train_one(task, dataset, setting, seed, options)
        longest = max(longest, time.monotonic() - run_started)
        trained.add(row)
        print(f"{task.name} {dataset} {setting} seed {seed}: {row[task.metric]} in {row['seconds']} s", flush=True)


def train_one(task: Task, dataset: str, setting: str, seed: int, options: argparse.Namespace) -> Row:
    """Trains once, stores the outputs, and returns the row."""
    started = time.monotonic()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    loss = build(setting, task.dimension(dataset), **task.loss_keywords(dataset))
    trained = task.train(dataset, loss, seed, options.tiny)
    seconds = time.monotonic() - started
    content = packed(trained.outputs)
    write_atomically(outputs_path(options, task, dataset, setting, seed), content)
    unsealed = {name: array for name, array in trained.outputs.items() if not name.startswith("test_")}
    return {
        "dataset": dataset,
        "setting": setting,
        "seed": seed,
        **main_first(task, task.validate(dataset, unsealed)),
        **rounded(geometry(trained.embeddings, trained.labels)),
        "seconds": round(seconds, 1),
        "outputs": digest(content),
        **environment(),
    }


def test(task: Task, options: argparse.Namespace, trained: Table, tested: Table) -> None:
    """Computes test metrics of what has none, for data sets and seeds of which all settings are trained."""
    settings = (*options.settings, *CANDIDATES)
    for seed, dataset, setting in itertools.product(options.seeds, options.datasets, settings):
        complete = all(trained.find(dataset, name, seed) for name in (*options.settings, setting))
        if not complete or tested.find(dataset, setting, seed):
            continue
        path = outputs_path(options, task, dataset, setting, seed)
        content = path.read_bytes()
        if digest(content) != trained.find(dataset, setting, seed)["outputs"]:
            raise ValueError(
                f"`{path}` must hold the outputs of the row of {dataset}, {setting}, seed {seed} in `{trained.path}`. "
                "Received: other outputs. Delete that row, and train again."
            )
        with np.load(io.BytesIO(content)) as outputs:
            metrics = task.test(dataset, dict(outputs))
        tested.add({"dataset": dataset, "setting": setting, "seed": seed, **main_first(task, metrics)})
    for dataset in options.datasets:
        rows = [row for row in tested.rows if row["dataset"] == dataset]
        if rows and all(row["setting"] in settings for row in rows):
            for name, metrics in task.baselines(dataset, options.tiny).items():
                tested.add({"dataset": dataset, "setting": name, "seed": 0, **main_first(task, metrics)})


def wanted(options: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Seed, data set and setting of every run, in the order in which they are trained."""
    return itertools.product(options.seeds, options.datasets, options.settings)


def outputs_path(options: argparse.Namespace, task: Task, dataset: str, setting: str, seed: int) -> Path:
    return options.runs / task.name / dataset / f"{setting} seed {seed}.npz".replace(" ", "_")


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def digest(content: bytes) -> str:
    """Ties a row to its outputs. The letter keeps a CSV reader from taking it for a number."""
    return "x" + hashlib.sha256(content).hexdigest()[:12]


def geometry(embeddings: np.ndarray, labels: np.ndarray | None) -> dict[str, float | str]:
    """Uniformity, mean cosine and effective rank of at most 1,000 embeddings, and tolerance where there are labels."""
    chosen = np.random.default_rng(0).permutation(len(embeddings))[:GEOMETRY_SAMPLES]
    embeddings = np.asarray(embeddings, "float32")[chosen]
    numbers, one_class = np.arange(len(embeddings)), np.zeros(len(embeddings), int)
    return {
        "uniformity": float(uniformity(gaussian_potential(numbers, embeddings).value)),
        "tolerance": "" if labels is None else float(tolerance(np.asarray(labels)[chosen], embeddings).value),
        "mean_cosine": float(tolerance(one_class, embeddings).value),
        "effective_rank": float(effective_rank(embeddings)),
    }


def main_first(task: Task, metrics: Metrics) -> Row:
    """Metrics with the main one first: table.py takes the column after the seed for it."""
    return rounded({task.metric: metrics[task.metric], **metrics})


def rounded(metrics: Mapping[str, float | str]) -> Row:
    return {name: value if isinstance(value, str) else round(float(value), 5) for name, value in metrics.items()}


def environment() -> Row:
    """Versions and processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "keras_tfcl": keras_tfcl.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "cpu": models[0] if models else platform.processor(),
    }
