"""The server process: it listens, and shuts down in order."""

from __future__ import annotations

import asyncio
import math
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.index import Index
from keras_tfcl.export.server.app import create_app
from keras_tfcl.export.server.settings import ServerSettings


def serve(encoder: OnnxEncoder, settings: ServerSettings | None = None, index: Index | None = None) -> None:
    """Serves an encoder until SIGTERM or SIGINT.

    At the signal `/health/ready` answers 503 at once, so that load balancers send no more; after `drain_s` seconds the
    server takes no new connections, finishes the requests that it has accepted, for which it has `deadline_s` seconds,
    and ends.
    """
    settings = settings or ServerSettings()
    app = create_app(encoder, settings, index)
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.deadline_s) + 1,  # bodies that never come whole hold up no longer
    )
    _Server(config, app, settings.drain_s).run()


class _Server(uvicorn.Server):
    """Waits before it stops to listen."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: float) -> None:
        super().__init__(config)
        self._app, self._drain = app, drain
        self._draining = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn has printed the cause
            wanted = f"{self.config.host}:{self.config.port}"
            raise OSError(f"The server must be able to listen on {wanted}. Pass another --port or --host.") from None
        address = self.servers[0].sockets[0].getsockname() if self.servers else (self.config.host, self.config.port)
        print(f"Serving on http://{address[0]}:{address[1]}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = self._loop
        if self._draining or loop is None:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        self._app.state.service.stopping = True
        stop = super().handle_exit
        loop.call_soon_threadsafe(lambda: loop.call_later(self._drain, stop, sig, frame))
