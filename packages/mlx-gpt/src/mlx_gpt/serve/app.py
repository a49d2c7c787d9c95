"""The application: OpenAI's routes, health, metrics and the chat page."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

from mlx_gpt.serve.answers import ChatForm, Form, Head, TextForm
from mlx_gpt.serve.chat_schemas import ChatBody
from mlx_gpt.serve.errors import ApiError, ErrorBody, add_error_handlers, json_response
from mlx_gpt.serve.limits import Guarded, Keys, Observed
from mlx_gpt.serve.metrics import Metrics
from mlx_gpt.serve.names import ServedNames
from mlx_gpt.serve.page import add_page
from mlx_gpt.serve.requests import Asked, Served, read_chat, read_completion
from mlx_gpt.serve.running import Facts, Running, stream_response, whole_response
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.serve.schemas import CompletionBody
from mlx_gpt.serve.settings import ServeSettings

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody}
    for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503)
}


def create_app(
    scheduler: Scheduler,
    settings: ServeSettings,
    sampling: Mapping[str, Any] | None = None,
    keys: Iterable[str] = (),
) -> FastAPI:
    """Return the application that serves a scheduler, which must have started.

    `sampling` has the settings of requests that name none, as arguments of `Sampling`; `keys` are
    those that requests must show, if there are any. While `app.state.draining` is true, new
    requests are refused.
    """
    names = ServedNames(settings.model, scheduler.adapters, scheduler.context_length)
    served = Served(scheduler, settings, names, dict(sampling or {}))
    metrics = Metrics(scheduler)
    # No page of documentation: FastAPI's loads scripts from elsewhere.
    app = FastAPI(title="mlx-gpt serve", version=version("mlx-gpt"), docs_url=None, redoc_url=None,
                  strict_content_type=False, redirect_slashes=False, responses=_ERRORS)  # fmt: skip
    app.state.draining = False
    _add_state_routes(app, served, metrics)
    _add_model_routes(app, names)
    _add_generation_routes(app, served, metrics)
    add_page(app)
    add_error_handlers(app)
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's form; here it is a 400
    network = settings.network
    # The last one added is the outermost.
    app.add_middleware(
        Guarded, network=network, keys=Keys(keys), is_draining=lambda: app.state.draining
    )
    if network.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=network.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id"], max_age=600,
        )  # fmt: skip
    app.add_middleware(Observed, metrics=metrics)
    return app


def _add_state_routes(app: FastAPI, served: Served, metrics: Metrics) -> None:
    @app.get("/health", summary="Whether the server lives")
    async def health() -> Response:
        """Answer 200 as long as the engine runs, else 503."""
        if served.scheduler.alive:
            return json_response({"status": "ok"})
        raise ApiError(503, served.scheduler.failure or "the engine has ended", code="dead")

    @app.get("/ready", summary="Whether requests are taken")
    async def ready() -> Response:
        """Answer 200 if new requests are taken, 503 while the server shuts down."""
        if served.scheduler.alive and not app.state.draining:
            return json_response({"status": "ready"})
        raise ApiError(503, "the server is shutting down", code="unavailable")

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Return counters, gauges and histograms as text."""
        return metrics.response()


def _add_model_routes(app: FastAPI, names: ServedNames) -> None:
    @app.get("/v1/models", summary="The model and its adapters")
    async def models() -> Response:
        """List what requests may name."""
        return json_response({"object": "list", "data": [*names.listing()]})

    @app.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str) -> Response:
        """Describe a model by any of its names."""
        return json_response(names.describe(names.find(name)))


def _add_generation_routes(app: FastAPI, served: Served, metrics: Metrics) -> None:
    fingerprint = _fingerprint(served)

    async def answer(request: Request, asked: Asked, form: Form, prompt: object) -> Response:
        known = request.scope["mlx_gpt"]
        head = Head(f"{form.prefix}-{known['id']}", int(time.time()), asked.choice.id, fingerprint)
        facts: Facts = known["facts"]
        facts.prompt_tokens = sum(len(each.prompt) for each in asked.generates[:: asked.n])
        facts.prompt = repr(prompt) if served.settings.network.log_prompts else None
        running = Running(served.scheduler, asked.generates, metrics, facts)
        running.submit(asked.param, request.receive)
        body = asked.body
        if not body.stream:
            return await whole_response(running, form, head, asked.n)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        return await stream_response(running, form, head, asked.n, include_usage)

    @app.post("/v1/chat/completions", summary="Answer a conversation", responses=_ANSWERS)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer the last message, whole or as a stream of server-sent events."""
        asked = await asyncio.to_thread(read_chat, served, body)
        form = ChatForm(served.tokenizer, bool(body.logprobs), asked.make_parser)
        return await answer(request, asked, form, body.messages)

    @app.post("/v1/completions", summary="Continue texts", responses=_ANSWERS)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """Continue one or several texts, whole or as a stream of server-sent events."""
        asked = await asyncio.to_thread(read_completion, served, body)
        repeated = asked.generates if body.echo else ()
        echo = [served.tokenizer.decode(each.prompt) for each in repeated]
        form = TextForm(served.tokenizer, body.logprobs, echo)
        return await answer(request, asked, form, body.prompt)


def _fingerprint(served: Served) -> str:
    """Return a text that changes with the model's name, its tokenizer and our version."""
    parts = (version("mlx-gpt"), served.names.default.id, served.tokenizer.sha256)
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]
