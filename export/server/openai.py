"""`/v1/embeddings` and `/v1/models`, in the format of OpenAI."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field, ValidationError

from keras_tfcl.export.server.errors import RequestError, fault
from keras_tfcl.export.server.fast_route import add_fast_route
from keras_tfcl.export.server.service import Service

Number = int | float


class InputRequest(BaseModel):
    """Inputs: texts, images in base64 or as data URIs, or numbers; what the model takes."""

    input: str | list[str] | list[Number] | list[list[object]]
    model: str | None = None


class EmbeddingRequest(InputRequest):
    """Inputs to embed."""

    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Keep so many values, and divide by their length again.")
    user: str | None = None


class Embedding(BaseModel):
    """One embedding, in the order of the inputs."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Numbers of tokens, values or images that were embedded."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Embeddings in the order of the inputs."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


_INPUT = "input: must be a string, a list of strings, a list of numbers, or a list of arrays."
Asked = TypeVar("Asked", bound=InputRequest)

_MULTIPART = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "dimensions": {"type": "integer", "minimum": 1},
        "model": {"type": "string"},
    },
    "required": ["file"],
}


def request_body(model: type[BaseModel]) -> dict[str, object]:
    """OpenAPI's description of a body in JSON, or in a form with files."""
    schema = model.model_json_schema()
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}, "multipart/form-data": {"schema": _MULTIPART}},
        }
    }


async def parsed(request: Request, model: type[Asked]) -> tuple[Asked, list[object]]:
    """The request, and its items: from JSON, or from a form with files.

    Raises:
        RequestError: it is neither, or not as the model says.
    """
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form() as form:
                files: list[object] = [await part.read() for part in form.getlist("file") if not isinstance(part, str)]
                fields = {name: value for name, value in form.items() if isinstance(value, str)}
                if not files:
                    message = f"A form must have a file in its field `file`. Received: the fields {[*form]}."
                    raise RequestError(422, message, "invalid_request")
            return model.model_validate({**fields, "input": [""] * len(files)}), files
        asked = model.model_validate_json(await request.body())
    except ValidationError as error:
        of_input = error.errors()[0]["loc"][:1] == ("input",) and error.errors()[0]["type"] != "missing"
        raise RequestError(422, _INPUT if of_input else fault(error.errors()), "invalid_request") from error
    return asked, items_of(asked.input)


def items_of(value: str | Sequence[object]) -> list[object]:
    """A list of inputs from one input or several: a list of numbers is one."""
    if isinstance(value, str) or (value and isinstance(value[0], (int, float))):
        return [value]
    return list(value)


def check_model(service: Service, name: str | None) -> None:
    """Raises RequestError for the name of another model."""
    if name not in (None, "", service.name):
        raise RequestError(
            404, f"The model {name!r} does not exist. This server has {service.name!r}.", "model_not_found"
        )


def add_openai_routes(app: FastAPI, service: Service) -> None:
    """Adds the routes of OpenAI's protocol."""

    async def embeddings(request: Request) -> Response:
        asked, items = await parsed(request, EmbeddingRequest)
        check_model(service, asked.model)
        inputs = await service.read(items)
        vectors = truncated(await service.embed(request, inputs), asked.dimensions)
        answer = EmbeddingResponse(
            model=service.name,
            data=[Embedding(index=i, embedding=_coded(v, asked.encoding_format)) for i, v in enumerate(vectors)],
            usage=Usage(prompt_tokens=inputs.used, total_tokens=inputs.used),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    described = request_body(EmbeddingRequest)
    path = "/v1/embeddings"
    add_fast_route(app, path, embeddings, tags=["OpenAI"], response_model=EmbeddingResponse, openapi_extra=described)

    entry = {"id": service.name, "object": "model", "created": int(time.time()), "owned_by": "keras_tfcl"}

    @app.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name}", tags=["OpenAI"])
    async def model(name: str) -> dict[str, object]:
        check_model(service, name)
        return entry


def truncated(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first values of each vector, at unit length again.

    Raises:
        RequestError: there are not so many.
    """
    if dimensions is None:
        return vectors
    if dimensions > vectors.shape[1]:
        message = f"`dimensions` must be at most {vectors.shape[1]}. Received: {dimensions}."
        raise RequestError(422, message, "invalid_request")
    kept = vectors[:, :dimensions]
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)


def _coded(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector.astype(float).tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
