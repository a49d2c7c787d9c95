"""Errors in OpenAI's form, for whatever goes wrong: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlx_gpt.serve.generation import (
    Draining,
    NotEnoughMemory,
    QueueFull,
    Refused,
    TooLong,
    UnknownAdapter,
)
from mlx_gpt.serve.schemas import FieldError

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error",
}  # fmt: skip
_CODES = {
    "missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter",
}  # fmt: skip
_LONGEST_PATH = 200
_FIELD = re.compile(r"[a-z_]+")
_DRAIN_RETRY = {"retry-after": "5"}


class ErrorDetail(BaseModel):
    """What went wrong; `param` names the field of the request."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer with a status of 400 or more."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body, also the event of an error in a stream."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param,
                          "code": self.code}}  # fmt: skip

    def response(self) -> Response:
        """Return it as an answer."""
        return json_response(self.body, self.status, self.headers)


def to_json(content: object) -> bytes:
    """Return compact JSON in UTF-8; half of a surrogate pair becomes a question mark."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer with a JSON body."""
    return Response(to_json(content), status, headers, media_type="application/json")


def unsupported(param: str, what: str) -> ApiError:
    """Return the error of a request for something that this server does not have."""
    return ApiError(400, f"{what} is not supported", param=param, code="unsupported_parameter")


def from_refused(error: Refused | ValueError, param: str) -> ApiError:
    """Return the error of a request that the scheduler refuses; `param` holds its prompt."""
    text = str(error)
    if isinstance(error, QueueFull):
        wait = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
        return ApiError(429, text, code="queue_full", headers=wait)
    if isinstance(error, Draining):
        return ApiError(503, text, code="unavailable", headers=_DRAIN_RETRY)
    if isinstance(error, TooLong):
        return ApiError(400, text, param=param, code="context_length_exceeded")
    if isinstance(error, NotEnoughMemory):
        return ApiError(400, text, param=param, code="not_enough_memory")
    if isinstance(error, UnknownAdapter):
        return ApiError(404, text, param="model", code="model_not_found")
    return ApiError(400, text, param=param)


def add_error_handlers(app: FastAPI) -> None:
    """Give every error of an application OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if isinstance(error.body, bytes) and kind not in ("", "application/json"):
            text = f"send JSON with Content-Type: application/json, not {kind[:100]}"
            return ApiError(415, text).response()
        return _from_problems(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path[:_LONGEST_PATH]
        text, code = str(error.detail), None
        if error.status_code == 404:
            text, code = f"there is no {method} {path} here", "unknown_url"
        elif error.status_code == 405:
            text, code = f"{method} is not allowed for {path}", "method_not_allowed"
        elif error.status_code == 400:
            text = "the body is not JSON in UTF-8"
        headers = dict(error.headers or {})
        return ApiError(error.status_code, text, code=code, headers=headers).response()

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        text = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
        return ApiError(500, f"{text}: the server's log has the place").response()


def _from_problems(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the first problem that pydantic found, with the path of its field."""
    first = problems[0]
    cause = first.get("ctx", {}).get("error")
    if first["type"] == "json_invalid":
        text = f"the body is not JSON: {cause} at character {first['loc'][-1]}"
        return ApiError(400, text, code="invalid_json")
    place, code = list(first["loc"][1:]), _CODES.get(first["type"])
    if isinstance(cause, FieldError):
        place, code = [*place, *filter(None, [cause.param])], cause.code
    if not place:
        return ApiError(400, "the body must be a JSON object", code="invalid_json")
    param = "".join(
        f"[{each}]" if isinstance(each, int) else f".{each}"
        for each in place
        # Other names are of the alternatives that pydantic tried.
        if isinstance(each, int) or _FIELD.fullmatch(each)
    ).removeprefix(".")
    text = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        text = "there is no such field here"
    return ApiError(400, f"{param}: {text}", param=param, code=code)
