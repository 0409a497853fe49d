"""`/v1/search`: the nearest entries of an index, and the images that belong to them."""

from __future__ import annotations

import asyncio
import io
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from keras_tfcl.export.runtime.images import FORMATS, eight_bits, upright
from keras_tfcl.export.runtime.index import Hit
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.server.errors import RequestError
from keras_tfcl.export.server.openai import InputRequest, check_model, parsed, request_body
from keras_tfcl.export.server.service import Service, in_parts

THUMBNAIL = 256


class SearchRequest(InputRequest):
    """Inputs to look for, and how many entries to find for each."""

    k: int = Field(10, ge=1, le=1000)


class Found(BaseModel):
    """One entry of the index."""

    id: int | str
    score: float = Field(description="Cosine to the query.")
    metadata: dict[str, object]
    image: str | None = Field(None, description="URL of its image for the page.")


class SearchResponse(BaseModel):
    """For each input its nearest entries, nearest first."""

    model: str
    results: list[list[Found]]


def add_search_routes(app: FastAPI, service: Service) -> None:
    """Adds the routes of the search."""

    @app.post("/v1/search", tags=["Search"], openapi_extra=request_body(SearchRequest))
    async def search(request: Request) -> SearchResponse:
        index = service.index
        if index is None:
            raise RequestError(404, "This server has no index. Start it with --index.", "no_index")
        asked, items = await parsed(request, SearchRequest)
        check_model(service, asked.model)
        vectors = await service.embed(request, await service.read(items))
        found = await in_parts(lambda part: index.search(part, asked.k), vectors)
        results = [
            [Found(id=hit.id, score=hit.score, metadata=hit.metadata, image=_address(service, hit)) for hit in hits]
            for hits in found
        ]
        return SearchResponse(model=service.name, results=results)

    @app.get("/v1/images/{path:path}", include_in_schema=False)
    async def image(path: str) -> Response:
        return Response(await asyncio.to_thread(_thumbnail, service, path), media_type="image/jpeg")


def _address(service: Service, hit: Hit) -> str | None:
    path = hit.metadata.get("path")
    return f"/v1/images/{quote(path)}" if service.settings.images is not None and isinstance(path, str) else None


def _thumbnail(service: Service, path: str) -> bytes:
    """A small JPEG of an image in the folder that the server may show, and of no other."""
    root = service.settings.images
    pillow = require("PIL.Image", "images")
    try:
        if root is None or not (file := (root / path).resolve()).is_relative_to(root.resolve()) or not file.is_file():
            raise FileNotFoundError(path)
        with pillow.open(file, formats=FORMATS) as opened:
            opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = eight_bits(upright(opened), path).convert("RGB")
    except Exception as error:  # of a name that no file can have, or whatever damaged bytes lead Pillow's decoders to
        raise RequestError(404, "There is no such image, or it cannot be read.", "no_image") from error
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
