"""What a request must pass before its route: host, origin, key, size and time of its body, load.

Plain ASGI, because streams must pass through as they are.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_gpt.serve.errors import ApiError
from mlx_gpt.serve.logs import LOG
from mlx_gpt.serve.metrics import Metrics
from mlx_gpt.serve.running import CLIENT_GONE, Facts
from mlx_gpt.serve.settings import ServeNetwork

KEY_VARIABLE = "MLX_GPT_API_KEY"
_OPEN = ("/health", "/ready")
# What is read of a body that is too large, so that its sender sees the answer.
_MOST_DISCARDED, _DISCARD_SECONDS = 16 << 20, 2.0


class Keys:
    """The keys that requests may show; none: everybody may."""

    def __init__(self, keys: Iterable[str] = ()):
        self._digests = [sha256(each.encode()).digest() for each in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, header: str) -> bool:
        """Return whether an Authorization header has a key; the time does not depend on which."""
        kind, _, given = header.partition(" ")
        digest = sha256(given.strip().encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(digest, each) for each in self._digests]
        return kind.lower() == "bearer" and any(found)


def read_keys(path: str | Path | None, environment: Mapping[str, str]) -> list[str]:
    """Return the keys of a file, one a line, and of the variable MLX_GPT_API_KEY.

    Lines that are empty or begin with # are no keys. Raises `ValueError` with the line, but not
    the key, if a key cannot be sent in a header, and for a file without any.
    """
    keys = [environment[KEY_VARIABLE]] if environment.get(KEY_VARIABLE) else []
    places = [KEY_VARIABLE] * len(keys)
    if path is not None:
        lines = enumerate(Path(path).read_text("utf-8").splitlines(), 1)
        found = {i: line.strip() for i, line in lines if line.strip() and line.strip()[0] != "#"}
        if not found:
            raise ValueError(f"{path} has no key: write one into a line")
        keys += found.values()
        places += [f"{path}:{i}" for i in found]
    for place, key in zip(places, keys, strict=True):
        if not all("!" <= each <= "~" for each in key):
            raise ValueError(f"{place}: a key has only visible ASCII characters, without spaces")
    return keys


class Observed:
    """The outermost layer: an id, a line in the log, and metrics for every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and record it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status, number = time.perf_counter(), 500, secrets.token_hex(12)
        facts = Facts()
        scope["mlx_gpt"] = {"id": number, "facts": facts}

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", number.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            status = CLIENT_GONE if facts.gone else status
            self._record(scope, status, time.perf_counter() - begin, number, facts)

    def _record(self, scope: Scope, status: int, seconds: float, number: str, facts: Facts) -> None:
        # Only paths that exist are labels: others are without number.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        path = scope.get("raw_path", b"").decode("ascii", "replace")[:200]
        line = f"{scope['method']} {path} {status} {seconds:.3f}s id={number}"
        if facts.prompt_tokens:
            line += f" prompt={facts.prompt_tokens} cached={facts.cached_tokens}"
            line += f" tokens={facts.tokens}"
        if facts.first_seconds is not None:
            line += f" first={facts.first_seconds:.3f}s"
        if facts.prompt is not None:
            line += f" prompt_text={facts.prompt} answers={facts.answers!r}"
        LOG.info("%s", line)


class Guarded:
    """Refuses other hosts and origins, wrong keys, and requests that are too many or too large."""

    def __init__(
        self, app: ASGIApp, network: ServeNetwork, keys: Keys, is_draining: Callable[[], bool]
    ):
        self._app, self._network, self._keys = app, network, keys
        self._is_draining, self._running = is_draining, 0
        self._hosts = {"localhost", network.host.lower(), *map(str.lower, network.allowed_hosts)}
        self._origins = {each.rstrip("/").lower() for each in network.cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, if it may pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(receive, self._network)
        counted = scope["method"] == "POST"
        try:
            self._check(scope, headers)
            if counted:
                await body.read(headers)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        self._running += counted
        try:
            await self._app(scope, body.replay if counted else receive, send)
        finally:
            self._running -= counted

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        host = headers.get(b"host", "")
        if not self._is_known(host):
            text = f"the host {host[:100]!r} is not this server; --allowed-host permits names"
            raise ApiError(403, text, code="unknown_host")
        origin = headers.get(b"origin")
        if origin and not self._is_allowed(origin, host):
            text = f"pages of {origin[:100]!r} may not use this server; --cors-origin permits them"
            raise ApiError(403, text, code="unknown_origin")
        path, is_page = (
            scope["path"],
            scope["method"] in ("GET", "HEAD") and _is_page(scope["path"]),
        )
        if path in _OPEN or is_page or scope["method"] == "OPTIONS":
            return
        if self._keys and not self._keys.accept(headers.get(b"authorization", "")):
            what = "is wrong" if b"authorization" in headers else "is missing"
            raise ApiError(
                401, f"the key {what}: send the header Authorization: Bearer KEY",
                code="invalid_api_key", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        if scope["method"] == "POST" and self._is_draining():
            again = {"retry-after": "5", "connection": "close"}
            raise ApiError(503, "the server is shutting down", code="unavailable", headers=again)
        if scope["method"] == "POST" and self._running >= self._network.max_requests:
            text = f"{self._running} requests are in progress; try again later"
            raise ApiError(429, text, code="too_many_requests", headers={"retry-after": "1"})

    def _is_known(self, host: str) -> bool:
        """Whether a Host header has a name of this server, or an address.

        A page of another site reaches this server by a name of its own that it binds to our
        address; no such page can have an address as its host.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_allowed(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may use this server: its own, and those of the settings."""
        origin = origin.lower()
        own = origin.partition("://")[2] == host.lower()
        return own or origin in self._origins or "*" in self._origins


def _is_page(path: str) -> bool:
    """Whether a path is of the chat page, which asks for the key itself."""
    return path == "/" or path.startswith("/page/")


class _Body:
    """The body of a request, read whole within the limits, for the application to read again."""

    def __init__(self, receive: Receive, network: ServeNetwork):
        self._receive, self._limit = receive, network.max_body
        self._seconds = network.body_seconds
        self._data: bytes | None = b""
        self._more = True

    async def read(self, headers: dict[bytes, str]) -> None:
        """Read it; raise `ApiError` if it is too large or too slow."""
        declared = headers.get(b"content-length", "")
        too_large = ApiError(
            413, f"the body is larger than {self._limit} bytes",
            code="body_too_large", headers={"connection": "close"},
        )  # fmt: skip
        if declared.isdigit() and int(declared) > self._limit:
            if b"expect" not in headers:
                await self._discard()
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in self._parts():
                    size += len(part)
                    if size > self._limit:
                        break
                    parts.append(part)
        except TimeoutError:
            text = f"the body did not arrive within {self._seconds:g} s"
            closed = {"connection": "close"}
            raise ApiError(408, text, code="body_timeout", headers=closed) from None
        if size > self._limit:
            await self._discard()
            raise too_large
        self._data = b"".join(parts)

    async def replay(self) -> Message:
        """Give the body once, then what the connection says."""
        if self._data is None:
            return await self._receive()
        data, self._data = self._data, None
        return {"type": "http.request", "body": data, "more_body": False}

    async def _parts(self) -> AsyncIterator[bytes]:
        while self._more:
            message = await self._receive()
            self._more = message.get("more_body", False)  # a disconnect has none
            yield message.get("body", b"")

    async def _discard(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for part in self._parts():
                    size += len(part)
                    if size > _MOST_DISCARDED:
                        return
        except TimeoutError:
            pass
