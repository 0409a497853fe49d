import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.callbacks import RetrievalEvaluation
from keras_tfcl.evaluation import retrieval


def tower(width, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(4)])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 5)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")


def by_hand(model, x):
    kernel, bias = model.get_weights()
    return x @ kernel + bias


def test_two_encoders_embed_queries_and_corpus(data):
    queries, documents = data
    towers = tower(5, 0), tower(3, 1)
    model = keras_tfcl.ContrastiveModel(towers)
    model.compile("adam", keras_tfcl.InfoNCE(cross_view_only=True), run_eagerly=True)
    callback = RetrievalEvaluation(queries, documents, np.arange(24), exclude=[[(i + 1) % 24] for i in range(24)], k=5)
    history = model.fit((queries, documents), batch_size=12, epochs=2, verbose=0, callbacks=[callback]).history
    assert len(history["retrieval_recall@5"]) == 2
    embedded = by_hand(towers[0], queries), by_hand(towers[1], documents)
    expected = retrieval(*embedded, np.arange(24), callback.exclude, k=5)
    assert {name: history[f"retrieval_{name}"][-1] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["mrr"] < 1


def test_one_encoder_embeds_both_and_every_and_name_are_kept(data):
    queries = data[0]
    model = tower(5, 0)
    model.compile("sgd", "mse", run_eagerly=True)
    callback = RetrievalEvaluation(queries[:6], queries, np.arange(6), k=1, every=2, name="copies")
    history = model.fit(queries, np.zeros((24, 4)), epochs=4, verbose=0, callbacks=[callback]).history
    assert history["copies_hit_rate@1"] == [1.0, 1.0]


def test_three_encoders_are_refused(data):
    queries = data[0]
    model = keras_tfcl.ContrastiveModel(tuple(tower(5, i) for i in range(3)), views=3)
    model.compile("adam", keras_tfcl.InfoNCE(cross_view_only=True))
    with pytest.raises(ValueError, match="a model of 3"):
        model.fit((queries,) * 3, verbose=0, callbacks=[RetrievalEvaluation(queries, queries, np.arange(24))])
