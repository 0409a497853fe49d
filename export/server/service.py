"""State that all routes share: the encoder, its queue, the index, and whether the server is ready."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from keras_tfcl.export.errors import InputError, ModelFileError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.golden_inputs import check_golden_inputs
from keras_tfcl.export.runtime.index import Index
from keras_tfcl.export.runtime.inputs import split_inputs
from keras_tfcl.export.runtime.tokens import Tokens, rows_in_run
from keras_tfcl.export.runtime.typing import Inputs
from keras_tfcl.export.server.batching import MicroBatcher, Rows, drop
from keras_tfcl.export.server.errors import RequestError
from keras_tfcl.export.server.metrics import Metrics
from keras_tfcl.export.server.settings import ServerSettings

VERSION = version("keras-tfcl")
AT_ONCE = 32  # images that are decoded, or queries that are searched for, between two looks at the deadline
T = TypeVar("T")
COARSE_COSINE = 0.99  # to the recorded embeddings, where another processor may round otherwise: int8, GPUs


@dataclass(frozen=True)
class RequestRows:
    """The inputs of one request, ready for the model.

    Attributes:
        parts: rows of the encoder's inputs, those of one shape together.
        used: what the client is told to have used: tokens, numbers or images.
        order: positions of the rows in the request, where `parts` are in another order.
    """

    parts: list[Rows]
    used: int
    order: np.ndarray | None = None


class Service:
    """One encoder behind a queue, and perhaps an index.

    Args:
        encoder: the encoder to serve.
        settings: of the server.
        index: what `/v1/search` looks in.

    Raises:
        ModelFileError: the model does not give the embeddings that its file records.
    """

    def __init__(self, encoder: OnnxEncoder, settings: ServerSettings, index: Index | None = None) -> None:
        self.encoder, self.settings, self.index = encoder, settings, index
        if encoder.takes_text:
            _ = encoder.text_rule  # what is missing for texts is said at the start and not by the first request
        self.name = settings.model_name or encoder.path.stem
        self.metrics = Metrics()
        self.metrics.model.info({"name": self.name, "provider": encoder.providers[0]})
        self.stopping = False
        self.batcher = MicroBatcher(
            self._encode, settings.max_batch_size, settings.max_queue, settings.batch_wait_ms / 1e3, self.metrics
        )
        self._self_test()

    def _self_test(self) -> None:
        """Warms the model up, and checks that it gives the embeddings recorded in its file."""
        metadata = self.encoder.metadata
        if metadata.get("probes"):
            parity = check_golden_inputs(self.encoder)
            coarse = "quantization" in metadata or self.encoder.providers[0] != "CPUExecutionProvider"
            if not parity.passed and not (coarse and parity.min_cosine >= COARSE_COSINE):
                raise ModelFileError(
                    f"A model must give the embeddings that its file records before it serves. Received: "
                    f"{self.encoder.path} with others on this machine: {parity}. Export it again, or install the "
                    f"onnxruntime that it was exported with."
                )
        if all(isinstance(side, int) for spec in self.encoder.inputs for side in spec.shape[1:]):
            self.encoder.warmup((1, self.settings.max_batch_size))
        elif self.encoder.takes_text:
            rule = self.encoder.text_rule
            self._encode(tuple(rule.rows([([rule.pad_id], [rule.pad_segment])])))

    def _encode(self, rows: Rows) -> np.ndarray:
        step = self.settings.max_batch_size
        if self.encoder.takes_text:
            step = min(step, rows_in_run(rows[0].shape[1]))
        return self.encoder.encode(rows if len(rows) > 1 else rows[0], batch_size=step)

    async def embed(self, request: Request, inputs: RequestRows) -> np.ndarray:
        """Embeddings of the inputs of a request, in their order, unless its client goes away before."""
        work = self.batcher.embed(inputs.parts)
        gone = asyncio.create_task(_disconnected(request))
        gone.add_done_callback(lambda _: drop(work))
        try:
            parts = [await part for part in work]
        except asyncio.CancelledError as error:
            if gone.done():
                raise ClientDisconnect from error
            raise
        finally:
            drop(work)
            gone.cancel()
        embeddings = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return embeddings if inputs.order is None else embeddings[np.argsort(inputs.order)]

    async def read(self, items: Sequence[object]) -> RequestRows:
        """What the encoder takes, from the items of a request: texts, images as bytes or base64, or numbers.

        Raises:
            InputError: an item is not what the encoder takes; the message names its number.
            RequestError: there are none, or too many, or the queue is full.
        """
        if not 1 <= len(items) <= self.settings.max_items:
            raise RequestError(
                422,
                f"A request may hold 1 to {self.settings.max_items} inputs. Received: {len(items)}. Send several "
                f"requests, or at least one input.",
                "invalid_input",
            )
        self.batcher.check_room(len(items))  # before images are decoded or texts split
        if isinstance(items[0], (str, list)) and self.encoder.takes_text:
            return await asyncio.to_thread(self._texts, items)
        if isinstance(items[0], (str, bytes)):
            images = await in_parts(lambda part: [self._image(*one) for one in part], [*enumerate(items)])
            return RequestRows([(np.stack(images),)], len(items))
        try:
            array = np.asarray(items)
        except ValueError as error:
            raise InputError(f"Inputs of one request must have one shape. Received: {error}.") from error
        if array.dtype.kind not in "iufb":
            raise InputError(f"Inputs must be numbers, or images in base64. Received: {array.dtype} values.")
        return RequestRows([self.rows(array)], array.size)

    def rows(self, x: Inputs) -> Rows:
        """Arrays as the encoder takes them.

        Raises:
            InputError: they do not fit, or are longer than a text may be.
        """
        rows = tuple(split_inputs(x, self.encoder.inputs))
        longest = max(
            array.shape[1] if spec.is_tokens else 0 for spec, array in zip(self.encoder.inputs, rows, strict=True)
        )
        if longest > self.settings.max_tokens:
            raise InputError(
                f"A text may have at most {self.settings.max_tokens:,} tokens. Received: {longest:,}. "
                "Send shorter texts."
            )
        return rows

    def _texts(self, items: Sequence[object]) -> RequestRows:
        """Texts or lists of token numbers, in parts of similar length, so that there is little padding."""
        rule = self.encoder.text_rule
        texts = [item for item in items if isinstance(item, str)]  # all or none: pydantic has checked
        tokens = rule.tokenize(texts) if texts else [_tokens(item, number) for number, item in enumerate(items)]
        limit = min(self.settings.max_tokens, rule.length or self.settings.max_tokens)
        for number, (ids, _) in enumerate(tokens):
            if not ids and rule.length is None:
                raise InputError(
                    f"A text must have a token. Received: input {number}, which has none. Leave out empty texts."
                )
            if len(ids) > limit:
                raise InputError(
                    f"A text may have at most {limit:,} tokens. Received: {len(ids):,} in input {number}. "
                    "Send shorter texts."
                )
        runs = [*rule.runs(tokens, self.settings.max_batch_size)]
        parts = [tuple(rule.rows([tokens[position] for position in run])) for run in runs]
        return RequestRows(parts, sum(len(ids) for ids, _ in tokens), np.concatenate(runs))

    def _image(self, number: int, item: object) -> np.ndarray:
        if not isinstance(item, (str, bytes)):
            raise InputError(f"Inputs must all be images, or all numbers. Received: input {number} of another kind.")
        if self.encoder.takes_text:
            raise InputError(f"This model takes texts. Received: a file as input {number}. Send the text as JSON.")
        if len(self.encoder.inputs) != 1 or len(self.encoder.inputs[0].shape) != 4:
            raise InputError(
                f"This model takes numbers of shape {self.encoder.inputs[0].shape[1:]}, not text or images. Received: "
                f"text as input {number}. Send arrays, or export the model with its tokenizer."
            )
        encoded = decode_base64(item, number) if isinstance(item, str) else item
        try:
            return self.encoder.read_image(encoded, self.settings.max_pixels)
        except InputError as error:
            raise InputError(f"Input {number}: {error}") from error


def _tokens(item: object, number: int) -> Tokens:
    """Token numbers that a client has made itself."""
    try:
        ids = np.asarray(item)
    except ValueError:
        ids = np.empty(0)
    if ids.dtype.kind != "i" or ids.ndim != 1 or ids.min(initial=0) < 0:  # a model would count -1 from the end
        raise InputError(f"Inputs must be texts, or lists of token numbers. Received: others in input {number}.")
    return ids.tolist(), [0] * len(ids)


def decode_base64(text: str, number: int) -> bytes:
    """The bytes of an image in base64, or in a data URI. Nothing is ever fetched.

    Raises:
        InputError: it is neither.
    """
    head, comma, data = text.partition(",")
    if text[:5].lower() == "data:" and comma:
        if not head.lower().endswith(";base64"):
            raise InputError(f"A data URI must be in base64. Received: input {number} that begins with {head[:40]!r}.")
        text = data
    elif "://" in text[:32]:
        raise InputError(f"Images are not downloaded. Received: a URL as input {number}. Send the image in base64.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # `base64 FILE` breaks lines
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"Images come in base64 or as data URIs. Received: input {number}, which is neither ({error})."
        ) from error


async def in_parts(function: Callable[[Any], list[T]], items: Sequence[object] | np.ndarray) -> list[T]:
    """Calls `function` on a part of the items at a time, in a thread, so that a cancelled request goes no further."""
    made: list[T] = []
    for start in range(0, len(items), AT_ONCE):
        made += await asyncio.to_thread(function, items[start : start + AT_ONCE])
    return made


async def _disconnected(request: Request) -> None:
    """Returns when the client goes away; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
