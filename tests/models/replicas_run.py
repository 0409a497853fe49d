"""Run by test_replicas.py in processes of its own: trains on one device, on replicas or as a worker; prints results.

python replicas_run.py SETTING CASE...      SETTING: "workers", or numbers of replicas such as "1,2", or "eager,2":
                                            "eager" is one device without a graph
                                            CASE: a name in CASES
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_tfcl

ROWS, BATCH, FEATURES = 24, 8, 16
RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
VIEWS = (FIRST, FIRST + RNG.normal(size=FIRST.shape).astype("float32"))
# Labels that give the first half of each batch fewer anchors with a positive than the second; uint8 as CIFAR's are.
LABELS = np.tile(np.array([0, 1, 2, 3, 4, 5, 5, 5], "uint8"), 3)
KERNEL = RNG.normal(size=(FEATURES, 12)).astype("float32")

INFONCE = keras_tfcl.InfoNCE, {"temperature": 0.2}
CASES = {
    "infonce": (INFONCE, {}),
    "arctanh": ((keras_tfcl.ArctanhInfoNCE, {}), {}),
    "hard": ((keras_tfcl.HardNegativeInfoNCE, {"temperature": 0.2, "top_k": 3}), {}),
    "reweighted": (
        (keras_tfcl.ContrastiveLoss, {"scaling": 0.5, "negatives": keras_tfcl.ReweightedNegatives(1.0, 0.1)}),
        {},
    ),
    "decoupled": ((keras_tfcl.DecoupledInfoNCE, {"temperature": 0.2, "sigma": 0.5}), {}),
    "learned": ((lambda: keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.3)), {}), {}),
    "dynamic": ((keras_tfcl.ContrastiveLoss, {"scaling": keras_tfcl.DynamicTemperature(0.2, 0.5)}), {}),
    "near_duplicates": (
        (keras_tfcl.ContrastiveLoss, {"scaling": 0.5, "negatives": keras_tfcl.WithoutNearDuplicates(0.1)}),
        {},
    ),
    "simple": ((keras_tfcl.SimpleContrastiveLoss, {}), {}),
    "sum": ((keras_tfcl.InfoNCE, {"temperature": 0.2, "reduction": "sum"}), {}),
    "cross_view": ((keras_tfcl.InfoNCE, {"temperature": 0.2, "cross_view_only": True}), {}),
    "tiled": ((keras_tfcl.ArctanhInfoNCE, {"block_size": 5}), {}),
    "sigmoid": ((keras_tfcl.SigmoidContrastiveLoss, {}), {}),
    "labels": (INFONCE, {"supervised": True}),
    "rules": (
        (
            keras_tfcl.InfoNCE,
            {
                "temperature": 0.2,
                "roles": ("anchor", "positive"),
                "symmetric": True,
                "ignore_class": 0,
                "unlabelled_class": 1,
                "same_label": "ignore",
            },
        ),
        {"supervised": True},
    ),
    "log_q": (INFONCE, {"supervised": True, "sampling_probability": lambda: keras_tfcl.SamplingProbability(50, 0.1)}),
    "slices": (INFONCE, {"encoder_batch_size": 3}),
    "queue": (INFONCE, {"momentum": 0.9, "queue_size": 32}),
    "bank": (INFONCE, {"momentum": 0.5, "queue_size": ROWS, "queue": "instances"}),
}


def train(case, strategy, eager=False):
    """The losses of two fits, the first gradient, the last weights, and an evaluation that splits unevenly."""
    (loss, arguments), options = CASES[case]
    with strategy.scope():
        kernel = keras.initializers.Constant(KERNEL)
        encoder = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(12, kernel_initializer=kernel)])
        made = {name: option() if callable(option) else option for name, option in options.items()}
        model = keras_tfcl.ContrastiveModel(encoder, seed=0, **made)
        metrics = [keras_tfcl.ContrastiveAccuracy(), keras_tfcl.Uniformity()]
        model.compile(keras.optimizers.SGD(1.0), loss=loss(**arguments), metrics=metrics, run_eagerly=eager)
    y = None if "queue" in options else LABELS
    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    first = tuple(view[:BATCH] for view in VIEWS)
    history = [model.fit(first, None if y is None else y[:BATCH], **settings).history]
    gradient = KERNEL - encoder.layers[-1].kernel.numpy()
    history.append(model.fit(VIEWS, y, epochs=2, **settings).history)
    evaluation = {"evaluate": model.evaluate(VIEWS, LABELS, batch_size=13, verbose=0), **uneven(model, options)}
    weights = [weight.numpy().tolist() for weight in model.weights]
    return {"history": history, "gradient": gradient.tolist(), "weights": weights, "evaluation": evaluation}


def uneven(model, options):
    """Batches whose last one has a single sample, and single batches of a few: some replicas have none."""
    y = np.arange(9) if "queue" in options else LABELS[:9]
    several = tuple(view[:9] for view in VIEWS)
    batches = tf.data.Dataset.from_tensor_slices((several, y)).batch(8)
    history = model.fit(batches, validation_data=batches, verbose=0).history
    weight = np.array([0.5, 2.0, 1.0])
    few, y = tuple(view[:3] for view in VIEWS), y[:3]
    results = {
        "history": history,
        "evaluate": model.evaluate(batches, verbose=0),
        "test_on_batch": model.test_on_batch(few, y, weight),
        "predict_on_batch": [features.tolist() for features in model.predict_on_batch(few)],
        "predict": model.predict(VIEWS[0][:9], batch_size=8, verbose=0).tolist(),
    }
    if options.get("queue_size", 6) % 6 == 0:  # else the queue takes no batches of three samples
        results["train_on_batch"] = model.train_on_batch(few, y, weight)
        results["after it"] = model.predict_on_batch(few[0]).tolist()
    return results


def main(setting, *cases):
    if setting == "workers":
        strategies = {"workers": tf.distribute.MultiWorkerMirroredStrategy()}
    else:
        numbers = {name: 1 if name == "eager" else int(name) for name in setting.split(",")}
        device, count = tf.config.list_physical_devices("CPU")[0], max(numbers.values())
        tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * count)
        strategies = {
            name: tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(n)])
            if n > 1
            else tf.distribute.get_strategy()
            for name, n in numbers.items()
        }
    for case in cases:
        for name, strategy in strategies.items():
            print("RESULT", json.dumps([name, case, train(case, strategy, name == "eager")]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
