"""The shards of a bulk job, for bulk_ray.py and bulk_beam.py.

A job embeds the images of a folder into `OUT/run-<n>/<name>.parquet`, with the columns `id`, the path of the image in
the folder, and `embedding`. The name of a shard follows from its ids, and a file gets its name when it is complete: a
shard that a killed worker began, and that another worker repeats, is written once. The next run reads the ids in all
shards and embeds what is missing. While a run lasts its folder is called `run-<n>.open`, and the next run renames it:
a worker that outlives its run cannot write any more. Images that cannot be read are listed in `OUT/dead_letters.jsonl`,
and the next run tries them again. `pyarrow.parquet.read_table([*OUT.glob("run-*/*.parquet")])` reads all embeddings.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

from keras_tfcl.export import ExportError, OnnxEncoder
from keras_tfcl.export.runtime.embedding_files import open_parquet, read_ids

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Shard = list[str]  # ids of images
DeadLetter = dict[str, str]  # the id of an image, and why it has no embedding


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="an .onnx file that export_onnx wrote")
    parser.add_argument("images", type=Path, help="a folder of images")
    parser.add_argument("out", type=Path, help="the folder of the shards")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, each with a model of its own")
    parser.add_argument("--shard-size", type=int, default=1024, help="images in a shard")
    options = parser.parse_args()
    for name in ("encoder", "images", "out"):  # a worker may have another working folder
        setattr(options, name, getattr(options, name).absolute())
    return options


def begin_run(encoder: Path, images: Path, out: Path, size: int) -> tuple[Path, list[Shard]]:
    """The folder of a new run, and the images that no run has embedded yet, in shards.

    Raises:
        InputError: another encoder wrote a shard in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for killed in out.glob("run-*.open"):
        end_run(killed)
    model = OnnxEncoder(encoder, threads=1)
    done = {name for file in out.glob("run-*/*.parquet") for name in read_ids(open_parquet(file, model))}
    found = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.suffix.lower() in SUFFIXES}
    missing = sorted(found - done)
    run = out / f"run-{len([*out.glob('run-*')])}.open"
    run.mkdir()
    return run, [missing[start : start + size] for start in range(0, len(missing), size)]


def end_run(run: Path) -> None:
    """Close the folder of a run."""
    run.rename(run.with_suffix(""))


def embed_shard(encoder: OnnxEncoder, images: Path, shard: Shard, run: Path) -> list[DeadLetter]:
    """Write the embeddings of a shard, and return the images that have none.

    If the model fails, the halves of the shard are tried, and so on, until the image that it fails for is alone.
    """
    dead: list[DeadLetter] = []

    def set_aside(position: int, image: object, error: Exception) -> None:
        dead.append({"id": shard[position], "error": str(error)})

    name = hashlib.sha256("\n".join(shard).encode()).hexdigest()[:16]
    paths = [images / one for one in shard]
    try:
        encoder.encode_to(paths, run / f"{name}.parquet", ids=shard, on_error=set_aside)
    except ExportError as error:
        if len(dead) == len(shard):  # no image of the shard could be read
            return dead
        if len(shard) == 1:
            return [{"id": shard[0], "error": str(error)}]
        return [letter for half in halves(shard) for letter in embed_shard(encoder, images, half, run)]
    return dead


def halves(shard: Shard) -> tuple[Shard, Shard]:
    middle = len(shard) // 2
    return shard[:middle], shard[middle:]
