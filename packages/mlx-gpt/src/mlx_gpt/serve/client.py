"""A client of OpenAI-compatible servers, of the standard library alone: answers and their streams.

Errors are `ServerError`, in one line that says what to do. Each request has a connection of its
own; closing the stream closes it, which tells the server to stop.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_LONGEST_LINE = 1 << 24  # of a stream; a server that sends more without a line's end is broken


class ServerError(ValueError):
    """A server that cannot be reached (`status` 0), refuses, or answers what is no answer.

    `retry_after` are seconds, if the server names them.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Server:
    """Where a server is. `url` may end with /v1; `timeout` is of each wait for bytes, in seconds.

    Raises `ValueError` for what is no URL.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 600.0

    def __post_init__(self):
        parts = urlsplit(self.url)
        try:
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong or parts.query or parts.fragment or parts.username:
            raise ValueError(f"expected a URL such as http://127.0.0.1:8080, got {self.url!r}")
        if self.api_key is not None and not self.api_key.isprintable():
            raise ValueError("the API key has characters that no header may have")

    def models(self) -> list[str]:
        """Return the names of the models that are served."""
        data = self._call("GET", "/models", None).get("data")
        if not isinstance(data, list) or not all(isinstance(each, Mapping) for each in data):
            raise ServerError(f"{self.url} has no list of models; is it an OpenAI-compatible one?")
        return [str(each.get("id")) for each in data]

    def complete(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request to `path`, as /chat/completions."""
        return self._call("POST", path, body)

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the chunks of an answer; `body` is sent with `stream`.

        Raises `ServerError` for an error in the stream too, and for a stream that is cut.
        """
        connection, response = self._open("POST", path, {**body, "stream": True})
        try:
            if "text/event-stream" not in response.getheader("content-type", ""):
                raise ServerError(f"{self.url} does not stream its answer", response.status)
            yield from self._events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        finally:
            response.close()
            connection.close()

    def _events(self, response: http.client.HTTPResponse) -> Generator[dict[str, Any], None, None]:
        while line := response.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                break
            if not line.startswith(b"data:"):  # comments, and the empty lines between events
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = self._parse(data)
            if error := event.get("error"):
                raise ServerError(f"the server stopped the answer: {_message(error)}", 500)
            yield event
        raise http.client.IncompleteRead(b"")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        connection, response = self._open(method, path, body)
        try:
            return self._parse(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; raise `ServerError` unless the answer is 200."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(str(parts.hostname), parts.port, timeout=self.timeout)
        headers = {"Content-Type": "application/json", "Accept": "*/*", "Connection": "close"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"{_prefix(parts.path)}{path}", data, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refused(response, (body or {}).get("model"))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._broken(error) from error
        except ServerError:
            connection.close()
            raise
        return connection, response

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            shown = data[:60].decode("utf-8", "replace")
            raise ServerError(f"{self.url} answered what is no JSON object: {shown!r}")
        return found

    def _refused(self, response: http.client.HTTPResponse, model: object) -> ServerError:
        status, retry = response.status, response.getheader("retry-after")
        seconds = float(retry) if retry and retry.replace(".", "", 1).isdigit() else None
        try:
            said = _message(json.loads(response.read()).get("error"))
        except (ValueError, AttributeError):
            said = response.reason
        wait = "" if seconds is None else f" in {seconds:g} s"
        what = {
            401: f"{self.url} wants an API key; name the environment variable that holds it by "
                 "--api-key-env" if self.api_key is None else
                 f"{self.url} does not accept this API key",
            404: f"{self.url} has no model {model!r}" if model else
                 f"{self.url} has no OpenAI-compatible interface there",
            429: f"{self.url} is busy; try again{wait}",
            503: f"{self.url} is not available; try again{wait}",
        }.get(status, f"{self.url} refused the request")  # fmt: skip
        return ServerError(f"{what}: {said}" if said else f"{what}: {status}", status, seconds)

    def _broken(self, error: Exception) -> ServerError:
        """Return what a failure of the connection means."""
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return ServerError(f"no server answers at {self.url}; is it running? ({error})")
        if isinstance(error, TimeoutError):
            return ServerError(f"{self.url} sent nothing for {self.timeout:g} s")
        if isinstance(error, ssl.SSLError):
            return ServerError(f"{self.url} has no connection that can be trusted: {error}")
        if isinstance(error, http.client.IncompleteRead):
            return ServerError(f"{self.url} ended the answer in the middle")
        said = str(error) or type(error).__name__
        return ServerError(f"the connection to {self.url} was lost: {said}")


def _prefix(path: str) -> str:
    path = path.rstrip("/")
    return path if path.endswith("/v1") else f"{path}/v1"


def _message(error: object) -> str:
    """Return the text of OpenAI's error object, or of a server's own."""
    if isinstance(error, Mapping):
        error = error.get("message")
    return " ".join(str(error or "").split())[:300]
