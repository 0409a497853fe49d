"""Two worker processes that train one encoder together, each on its half of every batch.

    python examples/multi_worker.py

starts both workers on this machine, over loopback, and prints what each reports: the same losses, and the same encoder.
Every worker compares its half with the whole batch, and gradients are exact, so the result is the same as in one
process with the whole batch. On several machines, start `worker()` on each with the TF_CONFIG of that machine (its own
index, all addresses in the same order).
"""

import json
import os
import socket
import subprocess
import sys

WORKERS = 2
EPOCHS = 3


def main() -> None:
    """Starts the workers and waits for them."""
    addresses = free_addresses(WORKERS)
    processes = []
    for index in range(WORKERS):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(subprocess.Popen([sys.executable, __file__, "worker"], env=environment))
    failed = any([process.wait() for process in processes])
    sys.exit("A worker failed; its message is above." if failed else 0)


def worker() -> None:
    """One worker: reads TF_CONFIG, trains with the others, reports."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_tfcl

    # Before anything else of TensorFlow: it sets up the connection to the other workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    images = np.random.default_rng(0).integers(0, 256, (512, 16, 16, 1), "uint8")  # your images here

    with strategy.scope():  # models and metrics are made here
        encoder = keras.Sequential(
            [
                keras.Input((16, 16, 1)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )
        model = keras_tfcl.ContrastiveModel(
            encoder,
            # Batch normalisation of its own half would make a worker's result depend on the split.
            projector=keras_tfcl.ProjectionHead((32, 16), batch_norm=False),
            augmenter=keras_tfcl.layers.image_augmenter("digits", (16, 16, 1)),
            seed=0,  # all workers shuffle alike
        )
        model.compile("adam", loss=keras_tfcl.ArctanhInfoNCE(), metrics=[keras_tfcl.ContrastiveAccuracy()])

    history = model.fit(images, batch_size=64, epochs=EPOCHS, verbose=0).history
    losses = " ".join(f"{loss:.4f}" for loss in history["loss"])
    fingerprint = sum(float(abs(weight.numpy()).sum()) for weight in model.weights)
    index = strategy.cluster_resolver.task_id
    print(f"worker {index} of {WORKERS}: losses {losses}, sum of weights {fingerprint:.4f}", flush=True)


def free_addresses(number: int) -> list[str]:
    """Addresses on loopback with ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
