"""Graph classification: readers, union of graphs, GIN, augmentations, and folds whose test labels stay unseen."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_tfcl

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"

# A triangle with a tail, and a single node; tags 4 and 9, and an attribute behind the neighbours of each node.
TEXT = """2
4 7
4 2 1 2 0.5
9 2 0 2 0.5
4 3 0 1 3 0.5
4 1 2 0.5
1 3
9 0 0.5
"""
EDGES = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 3), (3, 2)]
TU = {
    "A": "".join(f"{a + 1}, {b + 1}\n" for a, b in EDGES),
    "graph_indicator": "1\n1\n1\n1\n2\n",
    "graph_labels": "1\n-1\n",
    "node_labels": "4\n9\n4\n4\n9\n",
    "README": "text",
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("graph_classification")


@pytest.fixture
def graphs(script):
    """Of 1 to 12 nodes with three features; some have no edge."""
    rng = np.random.default_rng(0)
    made = []
    for count in (1, 2, 3, 5, 8, 12):
        pairs = np.array([(a, b) for a in range(count) for b in range(a) if rng.random() < 0.4], "int32").reshape(-1, 2)
        made.append(
            script.Graph(
                rng.normal(size=(count, 3)).astype("float32"), np.concatenate([pairs, pairs[:, ::-1]]).astype("int32")
            )
        )
    return made


@pytest.mark.parametrize("reader", ["text", "TU"])
def test_readers(script, reader):
    graphs, labels = script.read_graphs(TEXT) if reader == "text" else script.read_tu(TU)
    assert labels.tolist() == [1, 0]
    np.testing.assert_array_equal(graphs[0].nodes, [[1, 0], [0, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(graphs[1].nodes, [[0, 1]])
    assert sorted(map(tuple, graphs[0].edges.tolist())) == EDGES
    assert graphs[1].edges.shape == (0, 2)


def test_sums_over_neighbours(script, graphs):
    """Against loops over the edges of each graph."""
    batch = script.union(graphs)
    expected = []
    for graph in graphs:
        sums = graph.nodes.astype("float64")
        for source, target in graph.edges:
            sums[source] = sums[source] + graph.nodes[target]
        expected.append(sums)
    np.testing.assert_allclose(script.Neighbours()(batch), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    totals = script.SumOfNodes()(batch["nodes"], batch["node_counts"])
    np.testing.assert_allclose(totals, [graph.nodes.sum(axis=0) for graph in graphs], rtol=1e-5, atol=1e-6)


def test_union_is_each_graph_alone(script, graphs):
    """And concatenated unions, which is what the model makes of two views, are the union of all."""
    encoder = script.build_encoder(3)
    together = encoder(script.union(graphs), training=False)
    assert together.shape == (len(graphs), script.LAYERS * script.WIDTH)
    alone = [encoder(script.union([graph]), training=False)[0] for graph in graphs]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    parts = script.union(graphs[:2]), script.union(graphs[2:])
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in script.union(graphs).items():
        np.testing.assert_array_equal(joined[name], values)


@pytest.mark.parametrize("augmentation", ["augment", "drop_nodes", "perturb_edges", "mask_nodes", "walk"])
def test_augmentations(script, graphs, augmentation):
    """No graph becomes empty; edges join nodes that exist, in both directions, none twice and none to itself."""
    for number in range(60):
        graph = graphs[number % len(graphs)]
        changed = getattr(script, augmentation)(graph, np.random.default_rng(number))
        count = len(changed.nodes)
        assert 1 <= count <= len(graph.nodes) and changed.nodes.shape[1] == 3
        assert changed.nodes.dtype == "float32" and changed.edges.dtype == "int32"
        edges = {tuple(edge) for edge in changed.edges.tolist()}
        assert len(edges) == len(changed.edges) and all(a != b and (b, a) in edges for a, b in edges)
        assert all(0 <= a < count for a, _ in edges)


def test_what_augmentations_change(script, graphs):
    graph, rng = graphs[-1], np.random.default_rng(0)  # of 12 nodes: a fifth are 2
    dropped = script.drop_nodes(graph, rng)
    assert len(dropped.nodes) == 10
    kept = [int(np.flatnonzero((graph.nodes == node).all(axis=1))[0]) for node in dropped.nodes]
    old = {tuple(edge) for edge in graph.edges.tolist()}
    inside = {(a, b) for a, b in old if a in kept and b in kept}
    assert {(kept[a], kept[b]) for a, b in dropped.edges.tolist()} == inside
    masked = script.mask_nodes(graph, rng)
    assert (masked.nodes != graph.nodes).any(axis=1).sum() == 2
    np.testing.assert_array_equal(masked.edges, graph.edges)
    perturbed = script.perturb_edges(graph, rng)
    lost = old - {tuple(edge) for edge in perturbed.edges.tolist()}
    assert 0 < len(lost) <= 2 * int(0.2 * len(old) / 2)
    np.testing.assert_array_equal(perturbed.nodes, graph.nodes)


def test_walk_keeps_a_connected_part(script):
    """On a ring of ten and a node of its own: eight neighbours in a row, or the node alone."""
    ring = np.array([(n, (n + 1) % 10) for n in range(10)], "int32")
    graph = script.Graph(np.eye(11, dtype="float32"), np.concatenate([ring, ring[:, ::-1]]))
    sizes = set()
    for seed in range(40):
        part = script.walk(graph, np.random.default_rng(seed))
        sizes.add(len(part.nodes))
        assert len(part.edges) == 2 * (len(part.nodes) - 1)
    assert sizes == {1, 9}


def test_views_are_two_of_each_graph_in_equal_batches(script, graphs, monkeypatch):
    monkeypatch.setattr(script, "BATCH", 4)
    monkeypatch.setattr(script, "augment", lambda graph, rng: graph)
    views = script.GraphViews(graphs, epochs=3, seed=0)
    assert len(views) == 6
    for epoch in range(3):
        sizes = []
        for index in (2 * epoch, 2 * epoch + 1):
            ((first, second),) = views[index]
            np.testing.assert_array_equal(first["nodes"], second["nodes"])
            sizes += first["node_counts"].tolist()
        assert sorted(sizes) == [1, 2, 3, 5, 8, 12]


def test_model_compares_views_of_unequal_sizes(script, graphs):
    """Each view through the encoder alone gives the projections whose loss `evaluate` returns; and `fit` trains."""
    projector = keras_tfcl.ProjectionHead((8, 4))
    encoder = script.build_encoder(3)
    model = keras_tfcl.ContrastiveModel(encoder, projector=projector, seed=0)
    model.compile("adam", loss=keras_tfcl.InfoNCE(0.2))
    views = script.GraphViews(graphs, epochs=1, seed=0)
    ((first, second),) = views[0]
    assert len(first["nodes"]) != len(second["nodes"])
    z = np.stack([projector(encoder(view, training=False)).numpy() for view in (first, second)], axis=1)
    expected = keras_tfcl.InfoNCE(0.2)(np.arange(len(graphs)), z)
    assert model.evaluate(views, verbose=0) == pytest.approx(float(expected), rel=1e-4)
    before = encoder.get_weights()
    model.fit(views, verbose=0)
    assert any((old != new).any() for old, new in zip(before, encoder.get_weights(), strict=True))


def labelled(script):
    """60 points in two classes that overlap, in three folds."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 4)) + labels[:, None]
    parts = np.split(rng.permutation(60), 3)
    folds = [script.Fold(np.setdiff1d(np.arange(60), part), part) for part in parts]
    return features, script.GraphData([], labels, folds)


def test_validation_sees_no_label_of_the_test_part(script, monkeypatch):
    """Of each fold: with all labels of its test part turned, its validation accuracy stays, and test accuracy moves."""
    features, data = labelled(script)
    monkeypatch.setattr(script, "PENALTIES", (1.0,))
    task = script.GraphClassification()
    monkeypatch.setattr(script, "load", lambda name: data)
    outputs = {"features": features}
    validated, tested = task.validate("any", outputs), task.test("any", outputs)
    for number in (1, 2):
        turned = data.labels.copy()
        turned[data.folds[number - 1].test] ^= 1
        monkeypatch.setattr(script, "load", lambda name, turned=turned: data._replace(labels=turned))
        name = f"accuracy_{number}"
        assert task.validate("any", outputs)[name] == validated[name]
        assert task.test("any", outputs)[name] == pytest.approx(1 - tested[name])
        others = task.validate("any", outputs)
        assert any(others[other] != validated[other] for other in others if other != name)


def test_majority_class(script):
    fold = script.Fold(np.arange(5), np.arange(5, 8))
    assert script.majority_accuracy(np.array([0, 1, 1, 1, 0, 1, 0, 1]), fold) == pytest.approx(2 / 3)


def installed(script):
    task = script.GraphClassification()
    if not task.datasets:
        pytest.skip("no data: ../shared/data/graphs, or pip install --no-deps grakel")
    return task


def test_folds_of_the_data(script):
    """No graph is tested twice, or by a machine that was trained with it; a few of MUTAG's are never tested."""
    for name in installed(script).datasets[:2]:
        data = script.load(name)
        tested = np.concatenate([fold.test for fold in data.folds])
        assert len(np.unique(tested)) == len(tested) > 0.95 * len(data.graphs)
        assert all(not set(fold.train) & set(fold.test) for fold in data.folds)
        assert {"MUTAG": 188, "PROTEINS": 1113}[name] == len(data.graphs) == len(data.labels)


@pytest.mark.slow
def test_tiny_run(script, monkeypatch, tmp_path):
    """Both commands: one row a run, then test accuracies and baselines."""
    task = installed(script)
    harness = importlib.import_module("harness")
    settings = ("infonce 0.1", "learnable")
    for command in ("train", "test"):
        arguments = ["--datasets", "MUTAG", "--seeds", "0", "--tiny", "--runs", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["graph_classification.py", command, *arguments])
        harness.main(task, settings)
    tested = {row["setting"]: row["accuracy"] for row in harness.read_table(tmp_path / "graph_classification_test.csv")}
    assert {*settings, "majority class", "sums of node features", "untrained"} <= set(tested)
    assert tested["majority class"] == pytest.approx(0.665, abs=0.01)
    assert tested["infonce 0.1"] > 0.7
