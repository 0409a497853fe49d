"""Checks of every request: the bearer key, the size of its body, its deadline, and the counters."""

from __future__ import annotations

import asyncio
import hmac
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_tfcl.export.server.errors import DeadlineError, RequestError, answer
from keras_tfcl.export.server.metrics import Metrics
from keras_tfcl.export.server.settings import ServerSettings

OPEN = ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")  # without a key


class Gate:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._limit, self._deadline = settings.max_body_bytes, settings.deadline_s
        self._key = None if settings.api_key is None else f"Bearer {settings.api_key.get_secret_value()}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), "500"
        timer = asyncio.timeout(self._deadline)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                timer.reschedule(None)  # a client may take its time to read
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                refusal = await self._run(scope, receive, watched, timer)
                if refusal is not None:
                    self._metrics.rejected.labels(refusal.code).inc()
                    headers = {**(refusal.headers or {}), "Connection": "close"}
                    response = answer(Request(scope), refusal.status, refusal.message, refusal.code, headers)
                    status = str(refusal.status)
                    await response(scope, receive, send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.request_seconds.observe(time.monotonic() - started)

    async def _run(self, scope: Scope, receive: Receive, send: Send, timer: asyncio.Timeout) -> RequestError | None:
        """Lets the application answer; returns why it may not, or did not in time."""
        refusal = self._refusal(scope)
        if refusal is not None:
            return refusal
        try:
            async with timer:
                await self._app(scope, self._limited(receive), send)
        except TimeoutError:
            if timer.expired():
                return DeadlineError(self._deadline)
            raise
        return None

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"] not in OPEN:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._key):
                message = "This server needs a key. Send `Authorization: Bearer KEY`."
                return RequestError(401, message, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
        announced = headers.get(b"content-length", b"0")
        return self._too_large() if announced.isdigit() and int(announced) > self._limit else None

    def _limited(self, receive: Receive) -> Receive:
        """The body, as long as it keeps to the limit: it need not have announced its length."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> RequestError:
        text = f"A request may have at most {self._limit:,} bytes. Send fewer inputs at a time."
        return RequestError(413, text, "too_large")
