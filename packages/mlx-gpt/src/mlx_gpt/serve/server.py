"""Run the application: the socket, signals, and the end of the server."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mlx_gpt.serve.connections import connection_class
from mlx_gpt.serve.logs import LOG
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.serve.settings import ServeNetwork

_CHECK_SECONDS = 0.1
_LAST_BYTES_SECONDS = 5  # for clients to read the ends of their answers


class EngineDied(ValueError):
    """The engine has ended, and a supervisor should start the server again."""


class Server(uvicorn.Server):
    """Drains at the first signal: answers in progress end, new requests get 503. The second ends.

    `serve` returns when it has ended; `cut` is then the number of answers that were not complete.
    """

    def __init__(
        self, app: FastAPI, scheduler: Scheduler, network: ServeNetwork,
        ready: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        self.cut = 0
        self._app, self._scheduler, self._ready = app, scheduler, ready
        self._drain_seconds = network.drain_seconds
        super().__init__(
            uvicorn.Config(
                app, http=connection_class(network), ws="none", lifespan="off", loop="asyncio",
                log_config=None, access_log=False, server_header=False, proxy_headers=False,
                timeout_keep_alive=network.keep_alive_seconds,
                timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
            )
        )  # fmt: skip

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._app.state.draining:
            self.should_exit = self.force_exit = True
        self._app.state.draining = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until drained; raise `EngineDied` if the engine ended before that."""
        watch = asyncio.create_task(self._watch())
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(signal.SIGHUP, self.handle_exit)
        await super().serve(sockets)
        self.should_exit = True
        await watch

    async def _watch(self) -> None:
        """Announce the start; wait for the drain or the engine's death, and end the server."""
        while not (self.started or self.should_exit):
            await asyncio.sleep(_CHECK_SECONDS)
        self._ready()
        while not (self._app.state.draining or self.should_exit):
            if not self._scheduler.alive:
                self.should_exit = True
                raise EngineDied(f"the engine has ended: {self._scheduler.failure or 'no reason'}")
            await asyncio.sleep(_CHECK_SECONDS)
        draining = asyncio.create_task(self._drain())
        while not (draining.done() or self.should_exit) and self._scheduler.alive:
            await asyncio.sleep(_CHECK_SECONDS)
        stats = self._scheduler.stats()
        self.cut = stats.active + stats.queued
        await asyncio.to_thread(self._scheduler.close)
        await draining
        self.should_exit = True

    async def _drain(self) -> None:
        stats = self._scheduler.stats()
        LOG.info(
            "stopping: %d answers in progress, %d waiting, at most %g s",
            stats.active, stats.queued, self._drain_seconds,
        )  # fmt: skip
        await asyncio.to_thread(self._scheduler.drain, self._drain_seconds)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, which nobody can connect to before it is served.

    Raises `ValueError` if that is not possible.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
