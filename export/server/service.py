"""What all routes share: the encoder, the queue before it, the index, and whether the server is ready."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from starlette.requests import Request

from keras_tfcl.export.errors import ExportError, InputError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.golden_inputs import check_probes
from keras_tfcl.export.runtime.index import Index
from keras_tfcl.export.runtime.inputs import split_inputs
from keras_tfcl.export.server.batching import MicroBatcher, Rows
from keras_tfcl.export.server.errors import RequestError
from keras_tfcl.export.server.metrics import Metrics
from keras_tfcl.export.server.settings import ServerSettings

VERSION = version("keras-tfcl")


class Service:
    """One encoder behind a queue, and perhaps an index.

    Args:
        encoder: the encoder to serve.
        settings: of the server.
        index: what `/v1/search` looks in.
    """

    def __init__(self, encoder: OnnxEncoder, settings: ServerSettings, index: Index | None = None) -> None:
        self.encoder, self.settings, self.index = encoder, settings, index
        self.name = settings.model_name or encoder.path.stem
        self.metrics = Metrics()
        self.metrics.model.info({"name": self.name, "provider": encoder.providers[0]})
        self.not_ready: str | None = "starting"  # why, or None
        self.batcher = MicroBatcher(
            lambda rows: encoder.encode(rows if len(rows) > 1 else rows[0]),
            settings.max_batch_size,
            settings.max_queue,
            settings.batch_wait_ms / 1e3,
            self.metrics,
        )

    async def start(self) -> None:
        """Warms the model up, checks that it gives the embeddings recorded in its file, and becomes ready."""
        self.batcher.start()
        try:
            await asyncio.to_thread(self._self_test)
            self.not_ready = None
        except ExportError as error:
            self.not_ready = f"self-test failed: {error}"

    def _self_test(self) -> None:
        if self.encoder.metadata.get("probes"):
            parity = check_probes(self.encoder.path)
            if not parity.passed:
                raise ExportError(f"{self.encoder.path} does not give the embeddings recorded in it on this machine")
        if all(isinstance(side, int) for spec in self.encoder.inputs for side in spec.shape[1:]):
            self.encoder.warmup((1, self.settings.max_batch_size))

    async def embed(self, request: Request, rows: Rows) -> np.ndarray:
        """Embeddings of the rows of a request, unless its client goes away before."""
        work = asyncio.create_task(self.batcher.embed(rows, self.settings.deadline_s))
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise RequestError(499, "The client has gone.", "client_gone")
        finally:
            work.cancel()
            gone.cancel()

    def rows(self, items: Sequence[object]) -> Rows:
        """Rows of the encoder's input from items of a request: images as bytes or base64, or numbers.

        Raises:
            InputError: an item is not what the encoder takes; the message names its number.
            RequestError: there are none, or too many.
        """
        if not 1 <= len(items) <= self.settings.max_items:
            raise RequestError(
                422, f"A request holds 1 to {self.settings.max_items} inputs. Received: {len(items)}.", "invalid_input"
            )
        if isinstance(items[0], (str, bytes)):
            return (np.stack([self._image(item, number) for number, item in enumerate(items)]),)
        try:
            array = np.asarray(items)
        except ValueError as error:
            raise InputError(f"Inputs of one request must have one shape. Received: {error}.") from error
        if array.dtype.kind not in "iufb":
            raise InputError(f"Inputs must be numbers, or images in base64. Received: {array.dtype} values.")
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what becomes infinite is refused as such
                array = array.astype(np.float32)
        return tuple(split_inputs(array, self.encoder.inputs))

    def _image(self, item: object, number: int) -> np.ndarray:
        if not isinstance(item, (str, bytes)):
            raise InputError(f"Inputs must all be images, or all numbers. Received: input {number} of another kind.")
        if len(self.encoder.inputs) != 1 or len(self.encoder.inputs[0].shape) != 4:
            raise InputError(
                f"This model takes numbers of shape {self.encoder.inputs[0].shape[1:]}, not text or images. Received: "
                f"text as input {number}. Send arrays."
            )
        encoded = decode_base64(item, number) if isinstance(item, str) else item
        try:
            return self.encoder.read_image(encoded)
        except InputError as error:
            raise InputError(f"Input {number}: {error}") from error


def decode_base64(text: str, number: int) -> bytes:
    """The bytes of an image in base64, or in a data URI. Nothing is ever fetched.

    Raises:
        InputError: it is neither.
    """
    head, comma, data = text.partition(",")
    if text.startswith("data:") and comma:
        if not head.endswith(";base64"):
            raise InputError(f"A data URI must be in base64. Received: input {number} that begins with {head[:40]!r}.")
        text = data
    elif "://" in text[:32]:
        raise InputError(f"Images are not downloaded. Received: a URL as input {number}. Send the image in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"Images come in base64 or as data URIs. Received: input {number}, which is neither ({error})."
        ) from error


async def _disconnected(request: Request) -> None:
    """Returns when the client goes away; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
