"""Encoders and projectors that share layers: saved, loaded sharing them, and trained on as if never stopped."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_tfcl

RNG = np.random.default_rng(0)
BASKETS = RNG.integers(0, 12, (16, 3)).astype("int32")
ITEMS = RNG.integers(0, 12, (16, 1)).astype("int32")
VECTORS = tuple(RNG.normal(size=(16, 6)).astype("float32") for _ in range(3))
WORDS = np.array([["red fox"], ["blue whale"], ["green frog"], ["grey wolf"]] * 4)


def item_towers():
    """Two functional models with one embedding at different depths, and layers of equal names."""
    items = layers.Embedding(12, 5, name="items")
    basket, item = keras.Input((3,), dtype="int32"), keras.Input((1,), dtype="int32")
    return (
        keras.Model(basket, layers.Dense(4, name="out")(layers.Flatten(name="flat")(items(basket)))),
        keras.Model(item, layers.Dense(4, name="out")(layers.Flatten(name="flat")(items(item)))),
    )


def backbone_towers():
    """A nested model, with batch normalisation and dropout, in two towers: functional and sequential."""
    backbone = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.2, seed=3)]
    )
    x = keras.Input((6,))
    return (
        keras.Model(x, layers.Dense(4)(backbone(2 * x) + 1.0)),
        keras.Sequential([keras.Input((6,)), backbone, layers.Dense(4)]),
    )


def nested_towers():
    """Three towers, each with one layer inside a nested model of its own; the last one uses it twice."""
    shared = layers.Dense(6, "tanh")
    towers = []
    for number in range(3):
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(6), shared], name=f"inner_{number}")
        x = keras.Input((6,))
        towers.append(keras.Model(x, layers.Dense(4)(inner(shared(x)) if number == 2 else inner(x))))
    return tuple(towers)


def word_towers():
    """A vocabulary, which has no weights but a table, and an embedding behind it."""
    lookup, words = layers.StringLookup(), layers.Embedding(8, 4)
    lookup.adapt(WORDS)
    left, right = keras.Input((1,), dtype="string"), keras.Input((1,), dtype="string")
    return (
        keras.Model(left, layers.Flatten()(words(lookup(left)))),
        keras.Model(right, layers.Dense(4)(layers.Flatten()(words(lookup(right))))),
    )


KINDS = {
    "items": (item_towers, (BASKETS, ITEMS)),
    "backbone": (backbone_towers, VECTORS[:2]),
    "nested": (nested_towers, VECTORS),
    "words": (word_towers, (tf.constant(WORDS), tf.constant(np.roll(WORDS, 1)))),
}


def build(towers, momentum=None, projector=None):
    keras.utils.set_random_seed(2)
    model = keras_tfcl.ContrastiveModel(
        towers(), projector=projector, views=3 if towers is nested_towers else 2, momentum=momentum, seed=1
    )
    loss = keras_tfcl.InfoNCE(0.2, cross_view_only=True)
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)  # a few steps are faster without a graph
    return model


def fit(model, x, **options):
    return model.fit(x, batch_size=8, shuffle=False, verbose=0, **options).history["loss"]


@pytest.mark.parametrize(
    ("kind", "momentum"),
    [("items", None), ("backbone", None), ("nested", None), ("words", None), ("backbone", 0.9), ("nested", 0.9)],
)
def test_resume_equals_not_stopping(kind, momentum, tmp_path):
    towers, x = KINDS[kind]
    model = build(towers, momentum)
    fit(model, x)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert [v.shape for v in loaded.trainable_variables] == [v.shape for v in model.trainable_variables]
    for value, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(fit(loaded, x), fit(model, x), rtol=1e-5)


def test_loaded_towers_share_their_layers(tmp_path):
    """The same object in every place, also after a second round of saving and loading."""
    model = build(nested_towers)
    for name in ("once.keras", "twice.keras"):
        model.save(tmp_path / name)
        model = keras.models.load_model(tmp_path / name)
    inner = [tower.get_layer(f"inner_{number}") for number, tower in enumerate(model.encoders)]
    shared = {id(nested.layers[-1]) for nested in inner}
    assert len(shared) == 1
    assert shared <= {id(layer) for layer in model.encoders[2].layers}
    assert len({id(nested.layers[0]) for nested in inner}) == 3


def test_a_copy_by_configuration_shares_too():
    copy = keras_tfcl.ContrastiveModel.from_config(build(item_towers).get_config())
    assert copy.encoders[0].get_layer("items") is copy.encoders[1].get_layer("items")
    assert len(copy.trainable_variables) == 5


def test_a_frozen_tower_loads_frozen_and_its_shared_layer_as_it_was(tmp_path):
    towers = item_towers()
    towers[1].trainable = False
    towers[0].get_layer("items").trainable = True
    model = keras_tfcl.ContrastiveModel(towers)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert [tower.trainable for tower in loaded.encoders] == [True, False]
    assert [v.name for v in loaded.trainable_variables] == [v.name for v in model.trainable_variables]
    assert loaded.encoders[1].get_layer("items").trainable


def test_projectors_and_checkpoints(tmp_path):
    """One layer at the end of two projectors; the file is the one that ModelCheckpoint writes."""
    last = layers.Dense(3)
    heads = tuple(keras.Sequential([layers.Dense(5), last]) for _ in range(2))
    model = build(backbone_towers, projector=heads)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, VECTORS[:2], callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "1.keras")
    assert loaded.projector[0].layers[-1] is loaded.projector[1].layers[-1]
    np.testing.assert_allclose(fit(loaded, VECTORS[:2]), fit(model, VECTORS[:2]), rtol=1e-5)


def test_files_of_models_without_shared_layers_are_keras_own():
    """Nothing is added to their configuration."""
    model = keras_tfcl.ContrastiveModel(keras.Sequential([keras.Input((6,)), layers.Dense(4)]))
    assert "shared_layers" not in model.get_config()


@keras.saving.register_keras_serializable(package="test_shared_layers")
class Tower(keras.Model):
    """A model of one's own around a layer that another one has, too."""

    def __init__(self, shared=None, **kwargs):
        super().__init__(**kwargs)
        self.shared = shared or layers.Dense(4)

    def call(self, x):
        return self.shared(x)


def own_towers():
    shared = layers.Dense(4, name="common")
    x, y = keras.Input((6,)), keras.Input((6,))
    return keras.Model(x, shared(x)), keras.Model(y, Tower(shared, name="tower")(y))


def test_what_cannot_be_restored_is_refused_and_its_remedies(tmp_path):
    model = build(own_towers)
    with pytest.raises(ValueError, match=r"layer `common` that is shared by `tower`, a Tower.*save_weights"):
        model.save(tmp_path / "run.keras")
    with pytest.raises(ValueError, match=r"ModelCheckpoint: save_weights_only=True"):
        fit(model, VECTORS[:2], callbacks=[keras.callbacks.ModelCheckpoint(tmp_path / "run.keras")])
    path = tmp_path / "run.weights.h5"
    fit(model, VECTORS[:2], callbacks=[keras.callbacks.ModelCheckpoint(path, save_weights_only=True)])
    same = build(own_towers)
    same.load_weights(path)
    np.testing.assert_array_equal(same(VECTORS[:2]), model(VECTORS[:2]))


def test_what_one_class_shares_within_itself_is_its_own_business(tmp_path):
    """A custom layer that holds a layer twice makes it so again in its constructor."""

    @keras.saving.register_keras_serializable(package="test_shared_layers")
    class Twice(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(4)
            self.again = [keras.Sequential([self.dense])]

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.again[0](x) + self.dense(x)

    model = keras_tfcl.ContrastiveModel(keras.Sequential([keras.Input((6,)), Twice()]), seed=0)
    model.compile("adam", "infonce", run_eagerly=True)
    fit(model, VECTORS[:2])
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    np.testing.assert_allclose(loaded(VECTORS[0]), model(VECTORS[0]), rtol=1e-5)
