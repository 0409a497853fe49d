"""Random numbers of augmenters that TensorFlow traces: which would repeat, and how they are drawn again."""

from __future__ import annotations

import concurrent.futures
import random
import re
import warnings
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_tfcl._keras_compat import graphs_of_dataset
from keras_tfcl.ops.seeded_call import is_generator_state, seeded_call
from keras_tfcl.typing import Augmenter, SeededAugmenter, Structure, Tensor

KEPT = 4  # data sets: of the epoch that is read, the one before, and two that are created ahead
REMEDY = (
    "Use Keras layers such as keras.layers.GaussianNoise(0.1), keras.random with a keras.random.SeedGenerator that is "
    "made once, or an object with a method `augment(x, seed)` that draws with tf.random.stateless_normal(shape, seed)."
)


def repeats_draws(augmenter: Callable[..., Structure], x: Structure) -> bool:
    """Whether an augmenter of stateful `tf.random` operations would repeat its draws in each epoch.

    It would under a global seed, as `keras.utils.set_random_seed` sets it: a data set starts each of its epochs with
    the random state of the first one.

    Args:
        augmenter: function from a batch to a batch of one view each.
        x: structure of `tf.TensorSpec` of that batch.

    Raises:
        ValueError: for an augmenter that draws the same in each view or batch in any case: random operations with
            a fixed seed, or numbers drawn by Python while the function is traced.
    """
    nodes, global_seed = _traced(augmenter, x)
    seeded = list(filter(_is_seeded, nodes))
    if seeded:
        raise ValueError(
            f"`augmenter` must draw new numbers for each view. Received: {_name(augmenter)}, whose {seeded[0].op} has "
            f"the fixed seed {seeded[0].attr['seed2'].i}, so that views and epochs repeat. Leave out its `seed`; a "
            f"tf.function in it must not have been called before. {REMEDY}"
        )
    again = _traced(augmenter, x)[0]
    # Constants that an augmenter builds in its first call are not draws, so the second and third call are compared.
    if _constants(nodes) != _constants(again) != _constants(_traced(augmenter, x)[0]):
        raise ValueError(
            f"`augmenter` must draw with TensorFlow or Keras. Received: {_name(augmenter)}, whose numbers change each "
            "time it is traced, as those of np.random and random do. It is traced once, so that every batch would get "
            f"the same numbers. {REMEDY}"
        )
    return global_seed is not None and any(map(_is_random, nodes))


def notice_repeated_draws(dataset: tf.data.Dataset) -> None:
    """Warns of a data set that draws with seeded operations of `tf.random`, and so repeats its draws in each epoch."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        return  # never started a second time
    seeded = [node for graph in graphs_of_dataset(dataset) for node in _nodes(graph) if _is_seeded(node)]
    if seeded:
        warnings.warn(
            f"The data set draws with {seeded[0].op} under a fixed seed, its own or the global one, and "
            "starts each epoch with the same draws: views repeat. Give samples instead of views, and draw in the "
            "`augmenter` of ContrastiveModel; or draw with a tf.random.Generator that is made once.",
            stacklevel=2,
        )


def draw(augmenter: Augmenter, x: Structure, seed: tuple[int | Tensor, int | Tensor]) -> Structure:
    """One view of a batch.

    Args:
        augmenter: object with a method `augment(x, seed)`; a Keras layer, whose random generators start from the seed
            if they are its only state; or a function, whose randomness is its own.
        x: batch of samples.
        seed: two integers.
    """
    if isinstance(augmenter, SeededAugmenter):
        return augmenter.augment(x, tf.stack([tf.cast(number, "int32") for number in seed]))
    if not isinstance(augmenter, keras.Layer):
        return augmenter(x)
    if not augmenter.built:
        augmenter(x, training=True)
    if all(map(is_generator_state, augmenter.variables)):
        numbers = tf.stack([tf.cast(number, "int64") for number in seed])
        view, own = seeded_call(lambda: augmenter(x, training=True), augmenter.variables, numbers)
        if own:
            return view
    return augmenter(x, training=True)


def reseeded(augmenter: Callable[..., Structure], *key: int) -> Callable[..., Structure]:
    """The augmenter as a function to be traced, whose stateful `tf.random` operations follow from the key.

    Args:
        augmenter: Keras layer, or function from a batch to a batch of one view each.
        *key: integers, such as the seed of the run and the number of the step.
    """
    augmenter = _untraced(augmenter)
    seeds = random.Random(repr(key))

    def augment(x: Structure) -> Structure:
        seed = seeds.getrandbits(31)  # of this view

        @tf.function  # because AutoGraph is off where the data set of an epoch is created
        def seeded(x: Structure) -> Structure:
            tf.compat.v1.set_random_seed(seed)  # of the graph that is being traced, and of no other
            return _call(augmenter, x)

        return seeded(x)

    return augment


def created_each_epoch(
    make: Callable[[int], tf.data.Dataset], starts: tf.data.Dataset, first: int, steps: int
) -> tf.data.Dataset:
    """The data sets `make(start)` one after the other, each created by a thread while the one before is read.

    Args:
        make: function from an integer to a data set; all have the same element spec. It takes about 0.1 s.
        starts: data set of integers.
        first: the first of them.
        steps: from each of them to the next; 0 if they are all equal, a negative number if it is unknown.
    """
    thread = concurrent.futures.ThreadPoolExecutor(1)
    # By start. A variant does not keep the functions of its data set, so those that may still be read stay here.
    created: dict[int, concurrent.futures.Future[tf.data.Dataset]] = {}

    def create(start: int) -> concurrent.futures.Future[tf.data.Dataset]:
        if start not in created:
            created[start] = thread.submit(make, start)
        return created[start]

    def variant(start: tf.Tensor) -> tf.Tensor:
        dataset = create(int(start)).result()
        if steps >= 0:
            create(int(start) + steps)
        for old in [*created][:-KEPT]:
            del created[old]
        return tf.data.experimental.to_variant(dataset)

    spec = create(first).result().element_spec
    variants = starts.map(lambda start: tf.ensure_shape(tf.py_function(variant, [start], tf.variant), ()))
    return variants.prefetch(1).flat_map(lambda variant: tf.data.experimental.from_variant(variant, spec))


def _traced(augmenter: Callable[..., Structure], x: Structure) -> tuple[list[tf.compat.v1.NodeDef], int | None]:
    """The operations of an augmenter and of all functions in it, without a global seed; and what that seed is."""
    augmenter = _untraced(augmenter)
    global_seed = None

    def trace(x: Structure) -> Structure:
        nonlocal global_seed
        global_seed = tf.compat.v1.get_default_graph().seed
        tf.compat.v1.set_random_seed(None)
        return _call(augmenter, x)

    try:
        graph = tf.function(trace).get_concrete_function(x).graph
    except (TypeError, ValueError, AttributeError) as error:
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines if re.match(r"\s+\w+Error: ", line)), lines[0] if lines else "")
        received = ", ".join(f"{spec.dtype.name} {spec.shape}" for spec in tf.nest.flatten(x))
        raise ValueError(
            f"`augmenter` must turn a batch of samples into a batch of views. Received: {_name(augmenter)}, which "
            f"fails on {received}: {reason[:300]} Check the dtype and shape that it expects, with augmenter(x[:4])."
        ) from error
    return _nodes(graph.as_graph_def()), global_seed


def _nodes(graph: tf.compat.v1.GraphDef) -> list[tf.compat.v1.NodeDef]:
    """The operations of a graph, and of all functions that it calls."""
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def _call(augmenter: Callable[..., Structure], x: Structure) -> Structure:
    return augmenter(x, training=True) if isinstance(augmenter, keras.Layer) else augmenter(x)


def _untraced(augmenter: Callable[..., Structure]) -> Callable[..., Structure]:
    """The Python function of a `tf.function`, which would keep the seeds that it was first traced with."""
    return getattr(augmenter, "python_function", augmenter)


def _is_random(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a node is a stateful random operation: they alone have two seeds as attributes."""
    return "seed" in node.attr and "seed2" in node.attr


def _is_seeded(node: tf.compat.v1.NodeDef) -> bool:
    return _is_random(node) and bool(node.attr["seed"].i or node.attr["seed2"].i)


def _constants(nodes: list[tf.compat.v1.NodeDef]) -> list[bytes]:
    return sorted(node.attr["value"].SerializeToString(deterministic=True) for node in nodes if node.op == "Const")


def _name(augmenter: Augmenter) -> str:
    return f"`{getattr(augmenter, '__name__', type(augmenter).__name__)}`"
