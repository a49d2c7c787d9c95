"""HTTP/1.1 connections: uvicorn's, with the time limits and JSON errors that it does not have."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mlx_gpt.serve.errors import ApiError
from mlx_gpt.serve.settings import ServeNetwork


class Connection(H11Protocol):
    """A connection that ends when a client sends no head of a request, or does not read.

    `network` is set by `connection_class`.
    """

    network: ServeNetwork

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_limit: asyncio.TimerHandle | None = None
        self._write_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; or end at once if there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.network.max_connections:
            text = f"there are {self.network.max_connections} connections; try again later"
            self._refuse(ApiError(503, text, code="too_many_connections"))
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection and its timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it after an error
        for limit in (self._head_limit, self._write_limit):
            if limit:
                limit.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self.transport.is_closing():
            return
        if self._head_limit is None and self.conn.their_state is h11.IDLE:
            self._wait_for_head()  # of the next request of this connection
        super().data_received(data)
        if self._head_limit and self.conn.their_state is not h11.IDLE:
            self._head_limit.cancel()
            self._head_limit = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(ApiError(400, "this is not a valid HTTP request", code="invalid_http"))

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        if self._write_limit is None:
            seconds = self.network.write_seconds
            self._write_limit = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._write_limit:
            self._write_limit.cancel()
            self._write_limit = None

    def _wait_for_head(self) -> None:
        seconds = self.network.header_seconds
        self._head_limit = self.loop.call_later(seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        text = f"the head of the request did not arrive within {self.network.header_seconds:g} s"
        self._refuse(ApiError(408, text, code="head_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close the connection."""
        if self.transport.is_closing():
            return
        response = error.response()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*response.raw_headers, (b"connection", b"close")]
            events = (h11.Response(status_code=response.status_code, headers=headers),
                      h11.Data(data=bytes(response.body)), h11.EndOfMessage())  # fmt: skip
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(network: ServeNetwork) -> type[Connection]:
    """Return the class of connections with these limits, which uvicorn makes."""
    return type("LimitedConnection", (Connection,), {"network": network})
