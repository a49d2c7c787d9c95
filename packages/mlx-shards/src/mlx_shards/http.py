"""One HTTP request with the standard library: redirects, proxies, and interruptible reads."""

import base64
import http.client
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from mlx_shards.errors import DownloadError
from mlx_shards.shard import without_password
from mlx_shards.stop import Stop

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
PROXY_LOGIN = 407
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
        """Length of this response's body, as it is sent, where the server says it."""
        length = self.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None

    @property
    def is_chunked(self) -> bool:
        """Whether the body has an end of its own: one that is cut makes `read` fail."""
        return self.headers.get("Transfer-Encoding", "").strip().lower().endswith("chunked")


@contextmanager
def request(url: str, headers: Mapping[str, str], timeout: float, stop: Stop) -> Iterator[Response]:
    """Open `url` with GET, following redirects; headers with secrets stay with the first host.

    Raises `Interrupted` for what may pass, `DownloadError` for a URL or certificate that is wrong.
    `timeout` (seconds) bounds connecting, and each wait for more bytes.
    """
    parts = _split(url)
    headers = {
        "Accept-Encoding": "identity",
        "User-Agent": "mlx-shards",
        **_credentials("Authorization", parts),
        **headers,
    }
    host = _host(parts)
    for _ in range(_MOST_REDIRECTS + 1):
        parts = _split(url)
        if _host(parts) != host:
            headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
        connection, target, for_proxy = _connection(parts, timeout)
        shown = without_password(url)
        with ExitStack() as closing:
            closing.callback(connection.close)
            with _network_errors(shown):
                stop.check()
                connection.connect()
            # Kept apart: http.client forgets the socket when the response is to close it.
            sock = connection.sock
            with stop.interrupting(lambda sock=sock: _shut_down(sock)):
                with _network_errors(shown):
                    connection.request("GET", target, headers={**headers, **for_proxy})
                    response = connection.getresponse()
                closing.callback(response.close)  # the connection forgets it, too
                location = response.getheader("Location")
                if response.status in _REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                reader = _reader(shown, response, stop)
                yield Response(shown, response.status, response.headers, reader)
                return
    raise DownloadError(f"{without_password(url)}: more than {_MOST_REDIRECTS} redirects")


def _split(url: str) -> SplitResult:
    """Return the parts of a URL of a host; spaces and letters beyond ASCII become %XX."""
    shown = without_password(url)
    try:
        parts = urlsplit(quote(url, safe="%/:=&?~#+!$,;'@()*[]"))
        port = parts.port
    except ValueError as error:
        raise DownloadError(f"{shown}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise DownloadError(f"{shown}: only http:// and https:// of a host can be downloaded")
    return parts


def _host(parts: SplitResult) -> str:
    """Return `host` or `host:port`."""
    return parts.netloc.rpartition("@")[2]


def _credentials(header: str, parts: SplitResult) -> dict[str, str]:
    """Return the header with the user name and password of a URL, or none."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _connection(
    parts: SplitResult, timeout: float
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection to the host or to the proxy of the environment.

    And what to ask of it, and the headers that only a proxy may see.
    """
    assert parts.hostname
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(_host(parts)):
        return kind(parts.hostname, parts.port, timeout=timeout), target, {}
    via = _proxy(proxy, f"{parts.scheme}_proxy")
    assert via.hostname
    login = _credentials("Proxy-Authorization", via)
    connection = kind(via.hostname, via.port or 80, timeout=timeout)
    if secure:  # only CONNECT is for the proxy: it cannot see what follows
        connection.set_tunnel(parts.hostname, parts.port, login)
        return connection, target, {}
    return connection, f"{parts.scheme}://{_host(parts)}{target}", login


def _proxy(proxy: str, variable: str) -> SplitResult:
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        via = urlsplit(proxy)
        if via.scheme == "http" and via.hostname and via.port != 0:
            return via
    except ValueError:
        pass
    raise DownloadError(
        f"{variable} is {without_password(proxy)!r}: expected http://host:port or "
        "http://user:password@host:port"
    )


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
    except http.client.InvalidURL as error:
        raise DownloadError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The words of http.client: there is no class for it.
        if refusal := re.fullmatch(r"Tunnel connection failed: (4\d\d).*", str(error)):
            status = int(refusal[1])
            raise DownloadError(f"{url}: {proxy_refusal(status)}", status) from error
        raise Interrupted(f"{type(error).__name__}: {error}") from error


def proxy_refusal(status: int) -> str:
    """Return what to do about a proxy that does not let a request pass."""
    hint = "; it needs http_proxy=http://user:password@host:port (https_proxy for https URLs)"
    return f"the proxy answered with status {status}{hint if status == PROXY_LOGIN else ''}"


def _shut_down(sock: socket.socket) -> None:
    """Wake a thread that reads from the socket. Not SSLSocket's own method: it is not for that."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
