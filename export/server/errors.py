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

_STATUS: dict[type[Exception], tuple[int, str]] = {
    InputError: (422, "invalid_input"),
    NonFiniteError: (422, "invalid_input"),  # values so large that the model overflows
    ExportError: (500, "model_error"),
    ClientDisconnect: (499, "client_gone"),  # nobody reads the answer, but the counters do
    ImportError: (501, "missing_package"),  # of a package that only some requests need, such as Pillow
}


class RequestError(Exception):
    """A request that is refused, with the status of the answer and a message for the client."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


HANDLED: tuple[type[Exception], ...] = (RequestError, RequestValidationError, HTTPException, *_STATUS)


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


def answer_to(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request whose function raised this."""
    if isinstance(error, RequestError):
        return answer(request, error.status, error.message, error.code, error.headers)
    if isinstance(error, RequestValidationError):
        return answer(request, 422, fault(error.errors()), "invalid_request")
    if isinstance(error, HTTPException):
        return answer(request, error.status_code, str(error.detail), "http_error", dict(error.headers or {}))
    for kind, (status, code) in _STATUS.items():
        if isinstance(error, kind):
            return answer(request, status, str(error) or "The client has gone.", code)
    return answer(request, 500, f"The server failed: {type(error).__name__}. Its log says why.", "server_error")


def add_error_handlers(app: FastAPI) -> None:
    """Turns every exception of a function of FastAPI into an answer."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return answer_to(request, error)

    for kind in (*HANDLED, Exception):  # uvicorn writes what nobody expected to the log
        app.add_exception_handler(kind, handle)
