"""One HTTP request with the standard library: redirects, proxies, and interruptible reads."""

import http.client
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, urljoin, urlsplit

from mlx_shards.errors import DownloadError
from mlx_shards.stop import Stop

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_SECRET_HEADERS = ("authorization", "cookie")


class Interrupted(Exception):
    """The connection failed, stalled or ended early: trying again may help."""


@dataclass(frozen=True)
class Response:
    """An open response: `read(n)` returns at most `n` bytes, and b"" at its end."""

    url: str
    status: int
    headers: Message
    read: Callable[[int], bytes]

    @property
    def content_length(self) -> int | None:
        """Length of this response's body where the server says it."""
        length = self.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None


@contextmanager
def request(url: str, headers: Mapping[str, str], timeout: float, stop: Stop) -> Iterator[Response]:
    """Open `url` with GET, following redirects; headers with secrets stay with the first host.

    Raises `Interrupted` for what may pass, `DownloadError` for a URL or certificate that is wrong.
    `timeout` (seconds) bounds connecting, and each wait for more bytes.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "mlx-shards", **headers}
    host = urlsplit(url).netloc
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError(f"{url}: only http:// and https:// can be downloaded")
        if parts.netloc != host:
            headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
        connection, target = _connection(parts, timeout)
        with ExitStack() as closing:
            closing.callback(connection.close)
            with _network_errors(url):
                stop.check()
                connection.connect()
            # Kept apart: http.client forgets the socket when the response is to close it.
            sock = connection.sock
            with stop.interrupting(lambda sock=sock: _shut_down(sock)):
                with _network_errors(url):
                    connection.request("GET", target, headers=headers)
                    response = connection.getresponse()
                closing.callback(response.close)  # the connection forgets it, too
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                yield Response(url, response.status, response.headers, _reader(url, response, stop))
                return
    raise DownloadError(f"{url}: more than {_MOST_REDIRECTS} redirects")


def _connection(parts: SplitResult, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection to the host or to the proxy of the environment, and what to ask of it."""
    assert parts.hostname
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname):
        return kind(parts.hostname, parts.port, timeout=timeout), target
    via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not via.hostname:
        raise DownloadError(f"the proxy of the environment is not a URL: {proxy}")
    connection = kind(via.hostname, via.port, timeout=timeout)
    if secure:
        connection.set_tunnel(parts.hostname, parts.port)
        return connection, target
    return connection, parts.geturl()


def _reader(url: str, response: http.client.HTTPResponse, stop: Stop) -> Callable[[int], bytes]:
    def read(count: int) -> bytes:
        with _network_errors(url):
            data = response.read1(count)
        stop.check()  # a socket shut down by it reads like the end of the body
        return data

    return read


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Tell what may pass from what will not."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise DownloadError(f"{url}: {error.verify_message or error}") from error
    except TimeoutError as error:
        raise Interrupted("nothing received in time") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Interrupted(f"{type(error).__name__}: {error}") from error


def _shut_down(sock: socket.socket) -> None:
    """Wake a thread that reads from the socket. Not SSLSocket's own method: it is not for that."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
