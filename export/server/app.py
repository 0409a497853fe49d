"""The HTTP application: routes, monitoring, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.index import Index
from keras_tfcl.export.server.errors import add_error_handlers
from keras_tfcl.export.server.fast_route import FastRoutes
from keras_tfcl.export.server.gate import Gate
from keras_tfcl.export.server.inference import add_inference_routes
from keras_tfcl.export.server.openai import add_openai_routes
from keras_tfcl.export.server.search import add_search_routes
from keras_tfcl.export.server.service import VERSION, Service
from keras_tfcl.export.server.settings import ServerSettings

_LONG = ("probes", "tokenizer")  # of the metadata: for programs
PAGE = Path(__file__).with_name("page.html")
POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def create_app(encoder: OnnxEncoder, settings: ServerSettings | None = None, index: Index | None = None) -> FastAPI:
    """Makes the application that serves an encoder.

    Args:
        encoder: the encoder.
        settings: limits, key and so on. Defaults to what the environment says.
        index: what `/v1/search` looks in, filled by the same encoder.

    Raises:
        InputError: the index was filled by another encoder.
        ModelFileError: the model does not give the embeddings that its file records.
    """
    settings = settings or ServerSettings()
    if index is not None:
        index.check_encoder(encoder)
    service = Service(encoder, settings, index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.stop()

    app = FastAPI(title="keras_tfcl", version=VERSION, lifespan=lifespan)
    app.state.service, app.state.fast_routes = service, {}
    add_error_handlers(app)
    for add_routes in (add_openai_routes, add_inference_routes, add_search_routes):
        add_routes(app, service)  # not by routers, through which FastAPI takes a tenth longer to find a route
    _add_monitoring(app, service)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})

    app.add_middleware(FastRoutes, routes=app.state.fast_routes)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics)
    return app


def _add_monitoring(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", tags=["Monitoring"])
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["Monitoring"])
    async def ready(response: Response) -> dict[str, object]:
        response.status_code = 503 if service.stopping else 200
        return {"status": "stopping" if service.stopping else "ready", "provider": service.encoder.providers[0]}

    @app.get("/metrics", tags=["Monitoring"])
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/info", tags=["Monitoring"])
    async def info() -> dict[str, object]:
        encoder = service.encoder
        return {
            "model": service.name,
            "version": VERSION,
            "dimension": encoder.dimension,
            "text": encoder.takes_text,
            "images": not encoder.takes_text and len(encoder.inputs) == 1 and encoder.inputs[0].is_image,
            "inputs": [spec.to_dict() for spec in encoder.inputs],
            "providers": {"requested": encoder.requested_providers, "used": encoder.providers},
            "index": None
            if service.index is None
            else {"vectors": len(service.index), "graph": service.index.has_graph},
            "metadata": {name: value for name, value in encoder.metadata.items() if name not in _LONG},
        }
