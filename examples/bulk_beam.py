"""Embed a folder of images with Apache Beam: `python examples/bulk_beam.py encoder.onnx images/ embeddings/`.

`EncoderHandler` is a ModelHandler for Beam's RunInference: one model in a process, shared by its threads, that runs in
one thread. An element is a shard. Beam may run an element more than once; bulk_shards.py says why nothing is then
written twice. A run that was killed continues when it is called again. This script uses Beam's runner for one machine,
with a process for each worker; that runner does not replace a worker that dies, which the runners of clusters do.
Install for this example: `pip install "keras-tfcl[serve,images,parquet]" apache-beam`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from bulk_shards import DeadLetter, Shard, arguments, begin_run, embed_shard, end_run

from keras_tfcl.export import OnnxEncoder


class EncoderHandler(ModelHandler[Shard, list[DeadLetter], OnnxEncoder]):
    """Loads the encoder, and embeds shards with it."""

    def __init__(self, encoder: Path, images: Path, run: Path) -> None:
        super().__init__()
        self.encoder, self.images, self.run = encoder, images, run

    def load_model(self) -> OnnxEncoder:
        return OnnxEncoder(self.encoder, threads=1)

    def run_inference(
        self, batch: Sequence[Shard], model: OnnxEncoder, inference_args: dict[str, Any] | None = None
    ) -> Iterator[list[DeadLetter]]:
        for shard in batch:
            yield embed_shard(model, self.images, shard, self.run)

    def batch_elements_kwargs(self) -> dict[str, int]:
        return {"min_batch_size": 1, "max_batch_size": 1}  # a shard is a batch already


def main() -> None:
    options = arguments(__doc__)
    out = options.out
    run, shards = begin_run(options.encoder, options.images, out, options.shard_size)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # so that the workers find bulk_shards
    workers = PipelineOptions([], direct_running_mode="multi_processing", direct_num_workers=options.workers)
    with beam.Pipeline(FnApiRunner(), options=workers) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(shards)
            | "to all workers" >> beam.Reshuffle()
            | "embed" >> RunInference(EncoderHandler(options.encoder, options.images, run))
            | "dead letters" >> beam.FlatMap(lambda dead: map(json.dumps, dead))
            | "table" >> beam.io.WriteToText(str(out / "dead_letters.jsonl"), shard_name_template="")
        )
    end_run(run)
    dead = len((out / "dead_letters.jsonl").read_text().splitlines())
    print(f"{out}: {sum(map(len, shards)) - dead} new embeddings, {dead} images without one")


if __name__ == "__main__":
    main()
