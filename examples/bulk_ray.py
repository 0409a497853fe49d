"""Embed a folder of images with Ray: `python examples/bulk_ray.py encoder.onnx images/ embeddings/ --workers 4`.

Each worker is an actor, a process with one model that runs in one thread. Ray restarts an actor that dies and repeats
its shard; a shard whose workers die again and again is halved, until the image that kills them is alone. A run that was
killed as a whole continues where it was: call it again. bulk_shards.py says why nothing is lost and nothing is written
twice. Install for this example: `pip install "keras-tfcl[serve,images,parquet]" ray`.
"""

from __future__ import annotations

import json
from pathlib import Path

import ray
from bulk_shards import DeadLetter, Shard, arguments, begin_run, embed_shard, end_run, halves

from keras_tfcl.export import OnnxEncoder


@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=3)
class Embedder:
    """One model in a process of its own."""

    def __init__(self, encoder: Path, images: Path, run: Path) -> None:
        self.encoder = OnnxEncoder(encoder, threads=1)
        self.images, self.run = images, run

    def embed(self, shard: Shard) -> list[DeadLetter]:
        return embed_shard(self.encoder, self.images, shard, self.run)


def embed_all(shards: list[Shard], workers: int, encoder: Path, images: Path, run: Path) -> list[DeadLetter]:
    """Give each worker a shard, and the next one when it is done. Return what has no embedding."""
    left, dead = shards[::-1], []
    idle = [Embedder.remote(encoder, images, run) for _ in range(min(workers, len(shards)))]
    running: dict[ray.ObjectRef, tuple[ray.actor.ActorHandle, Shard]] = {}
    while True:
        while idle and left:
            worker, shard = idle.pop(), left.pop()
            running[worker.embed.remote(shard)] = worker, shard
        if not running:
            return dead
        (done,), _ = ray.wait([*running])
        worker, shard = running.pop(done)
        idle.append(worker)
        try:
            dead += ray.get(done)
        except ray.exceptions.RayError as error:  # the worker died four times
            if len(shard) > 1:
                left += halves(shard)
            else:
                dead.append({"id": shard[0], "error": f"the worker failed: {error}"})


def main() -> None:
    options = arguments(__doc__)
    run, shards = begin_run(options.encoder, options.images, options.out, options.shard_size)
    ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
    dead = embed_all(shards, options.workers, options.encoder, options.images, run)
    end_run(run)
    draft = options.out / ".dead_letters.jsonl"
    draft.write_text("".join(json.dumps(letter) + "\n" for letter in dead))
    draft.replace(options.out / "dead_letters.jsonl")
    print(f"{options.out}: {sum(map(len, shards)) - len(dead)} new embeddings, {len(dead)} images without one")


if __name__ == "__main__":
    main()
