"""The Open Inference Protocol, version 2, with its extension for binary tensors."""

from __future__ import annotations

import json
from enum import Enum

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from keras_tfcl.export.errors import InputError
from keras_tfcl.export.server.errors import RequestError, fault
from keras_tfcl.export.server.fast_route import add_fast_route
from keras_tfcl.export.server.openai import check_model
from keras_tfcl.export.server.service import VERSION, RequestRows, Service

TAGS: list[str | Enum] = ["Open Inference Protocol"]
OUTPUT = "embedding"
HEADER = "inference-header-content-length"
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


class Tensor(BaseModel):
    """A tensor: its values as a flat or nested list, or behind the JSON."""

    name: str
    shape: list[NonNegativeInt]
    datatype: str
    data: list[object] | None = None
    parameters: dict[str, object] = Field(default_factory=dict)


class RequestedOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, object] = Field(default_factory=dict)


class InferenceRequest(BaseModel):
    """RequestRows of the model by name."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[RequestedOutput] = Field(default_factory=list)
    parameters: dict[str, object] = Field(default_factory=dict)


def add_inference_routes(app: FastAPI, service: Service) -> None:
    """Adds the routes of the Open Inference Protocol."""
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/1"):  # there is no other version
        _add_model_routes(app, service, path)

    @app.get("/v2", tags=TAGS)
    async def server() -> dict[str, object]:
        return {"name": "keras_tfcl", "version": VERSION, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live", tags=TAGS)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=TAGS)
    async def ready(response: Response) -> dict[str, bool]:
        response.status_code = 503 if service.stopping else 200
        return {"ready": not service.stopping}


def _add_model_routes(app: FastAPI, service: Service, path: str) -> None:
    async def infer(request: Request) -> Response:
        check_model(service, request.path_params.get("name"))  # by the fast route there is no other
        asked, tail = _parse(await request.body(), request.headers.get(HEADER))
        rows = _rows(service, asked, tail)
        vectors = await service.embed(request, RequestRows([rows], len(rows[0])))
        return _respond(service.name, asked, vectors)

    schema = InferenceRequest.model_json_schema()
    described = {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }
    add_fast_route(app, path + "/infer", infer, service.name, tags=TAGS, openapi_extra=described)

    @app.get(path, tags=TAGS)
    async def model(name: str) -> dict[str, object]:
        check_model(service, name)
        inputs = [
            {"name": spec.name, "datatype": _NAMES[spec.dtype], "shape": _dimensions(spec.shape)}
            for spec in service.encoder.inputs
        ]
        output = {"name": OUTPUT, "datatype": "FP32", "shape": [-1, service.encoder.dimension]}
        return {
            "name": service.name,
            "versions": ["1"],
            "platform": "onnxruntime",
            "inputs": inputs,
            "outputs": [output],
        }

    @app.get(path + "/ready", tags=TAGS)
    async def model_ready(name: str, response: Response) -> dict[str, object]:
        check_model(service, name)
        response.status_code = 503 if service.stopping else 200
        return {"name": service.name, "ready": not service.stopping}


def _dimensions(shape: tuple[int | None, ...]) -> list[int]:
    return [-1, *(side if isinstance(side, int) else -1 for side in shape[1:])]


def _parse(body: bytes, header: str | None) -> tuple[InferenceRequest, memoryview]:
    """The request in JSON, and the bytes of tensors behind it, which are not copied."""
    try:
        length = len(body) if header is None else int(header)
        if not 0 <= length <= len(body):
            raise RequestError(
                400, f"{HEADER} must be at most the body's length. Received: {length}.", "invalid_request"
            )
        return InferenceRequest.model_validate_json(body[:length]), memoryview(body)[length:]
    except ValidationError as error:
        raise RequestError(400, fault(error.errors()), "invalid_request") from error
    except ValueError as error:
        raise RequestError(400, f"{HEADER} must be a number. Received: {header!r}.", "invalid_request") from error


def _rows(service: Service, asked: InferenceRequest, tail: memoryview) -> tuple[np.ndarray, ...]:
    arrays: dict[str, np.ndarray] = {}
    for tensor in asked.inputs:
        if tensor.name in arrays:
            raise RequestError(400, f"Each input may occur once. Received: {tensor.name!r} twice.", "invalid_request")
        size = tensor.parameters.get("binary_data_size")
        if size is not None and (not isinstance(size, int) or not 0 <= size <= len(tail)):
            raise RequestError(400, f"{tensor.name}: binary_data_size does not fit the body.", "invalid_request")
        arrays[tensor.name] = _array(tensor, None if size is None else tail[:size])
        tail = tail[size or 0 :]
    if tail:
        message = f"The body must end with the tensors. Received: {len(tail)} bytes more."
        raise RequestError(400, message, "invalid_request")
    rows = service.rows(arrays)
    count = len(rows[0])
    if not 1 <= count <= service.settings.max_items:
        message = (
            f"A request may hold 1 to {service.settings.max_items} samples. Received: {count}. Send several requests."
        )
        raise RequestError(400, message, "invalid_input")
    return rows


def _array(tensor: Tensor, binary: memoryview | None) -> np.ndarray:
    """The tensor as an array of its shape and type."""
    if tensor.datatype not in DATATYPES:
        raise InputError(f"`datatype` must be one of {', '.join(DATATYPES)}. Received: {tensor.datatype!r}.")
    dtype = np.dtype(DATATYPES[tensor.datatype]).newbyteorder("<")
    try:
        values = np.frombuffer(binary, dtype) if binary is not None else _exactly(tensor.data or [], dtype)
        return values.astype(dtype.newbyteorder("="), copy=False).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise InputError(
            f"A tensor must hold as many values as its shape says, of its type. Received: {tensor.name} of shape "
            f"{tensor.shape} and type {tensor.datatype}: {error}."
        ) from error


def _exactly(data: list[object], dtype: np.dtype[np.generic]) -> np.ndarray:
    """The values as an array of a type that holds them; floats may be rounded."""
    values = np.asarray(data)
    with np.errstate(over="raise", invalid="raise"):
        array = values.astype(dtype)
    if values.dtype.kind not in "biuf" or (dtype.kind != "f" and not np.array_equal(array, values)):
        raise ValueError("values of another type")
    return array


def _respond(name: str, asked: InferenceRequest, vectors: np.ndarray) -> Response:
    wanted = asked.outputs[0] if asked.outputs else None
    if any(output.name != OUTPUT for output in asked.outputs):
        raise RequestError(
            400, f"The model has one output, {OUTPUT!r}. Ask for it, or leave out `outputs`.", "invalid_request"
        )
    binary = (wanted.parameters if wanted else {}).get("binary_data", asked.parameters.get("binary_data_output", False))
    output: dict[str, object] = {"name": OUTPUT, "datatype": "FP32", "shape": [*vectors.shape]}
    content = vectors.astype("<f4").tobytes() if binary else b""
    output |= {"parameters": {"binary_data_size": len(content)}} if binary else {"data": vectors.ravel().tolist()}
    answer: dict[str, object] = {"model_name": name, "model_version": "1", "outputs": [output]}
    if asked.id is not None:
        answer["id"] = asked.id
    head = json.dumps(answer).encode()
    headers = {HEADER: str(len(head))} if binary else {}
    return Response(
        head + content, media_type="application/octet-stream" if binary else "application/json", headers=headers
    )
