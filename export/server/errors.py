"""Errors of requests, and their responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keras_tfcl.export.errors import ExportError, InputError, NonFiniteError


class RequestError(Exception):
    """A request that is refused, with the status of the answer and a message for the client."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


class QueueFullError(RequestError):
    """More rows wait than the server holds."""

    def __init__(self, waiting: int) -> None:
        message = f"The server is busy: {waiting} rows are waiting. Try again in a second."
        super().__init__(429, message, "overloaded", {"Retry-After": "1"})


class DeadlineError(RequestError):
    """The answer would come too late."""

    def __init__(self, seconds: float) -> None:
        super().__init__(504, f"No answer within {seconds:g} seconds. Send fewer inputs, or try again.", "timeout")


def answer(
    request: Request, status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The error in the form of the protocol: OpenAI's object, or the text of the Open Inference Protocol."""
    body: dict[str, object] = {"error": message}
    if not request.url.path.startswith("/v2"):
        kind = "invalid_request_error" if status < 500 else "server_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status, headers)


def fault(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in words."""
    where = ".".join(str(part) for part in errors[0]["loc"])
    return f"{where or 'The body'}: {errors[0]['msg']}"


def add_error_handlers(app: FastAPI) -> None:
    """Turns every exception of a handler into an answer."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        return answer(request, error.status, error.message, error.code, error.headers)

    @app.exception_handler(InputError)
    @app.exception_handler(NonFiniteError)  # values so large that the model overflows
    async def bad_input(request: Request, error: InputError | NonFiniteError) -> JSONResponse:
        return answer(request, 422, str(error), "invalid_input")

    @app.exception_handler(ExportError)
    async def bad_model(request: Request, error: ExportError) -> JSONResponse:
        return answer(request, 500, str(error), "model_error")

    @app.exception_handler(ClientDisconnect)  # nobody reads the answer, but the counters do
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(request, 499, "The client has gone.", "client_gone")

    @app.exception_handler(ImportError)  # of a package that only some requests need, such as Pillow
    async def missing(request: Request, error: ImportError) -> JSONResponse:
        return answer(request, 501, str(error), "missing_package")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:  # uvicorn writes it to the log
        return answer(request, 500, f"The server failed: {type(error).__name__}. Its log says why.", "server_error")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, 422, fault(error.errors()), "invalid_request")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request, error.status_code, str(error.detail), "http_error", dict(error.headers or {}))
