"""Download one file: resume it, repeat what may pass, give up at once on what will not.

A file counts as whole where its end is known: by a length, by chunks, by its encoding, or because
the server has nothing after it. A body that just stops may be a file that was cut.
"""

import email.utils
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mlx_shards.body import encoding_of, read_body
from mlx_shards.errors import DownloadError
from mlx_shards.http import PROXY_LOGIN, Interrupted, Response, proxy_refusal, request
from mlx_shards.shard import without_password
from mlx_shards.stop import Stop

T = TypeVar("T")

_PASSING = (408, 425, 429, 500, 502, 503, 504)
_UNFIT_RANGE = 416


@dataclass(frozen=True)
class Http:
    """How files are requested, and when a request is repeated.

    The wait before the nth repetition is drawn from [0, first_wait * 2^(n-1)], at most
    `longest_wait` seconds, and never below what `Retry-After` asks for. `attempts` counts those
    in a row that brought no new byte. `timeout` bounds connecting and each wait for bytes,
    `deadline` the whole file. `wait(seconds, stop)`, `clock` and `draw` can be replaced in tests.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 30.0
    deadline: float = 3600.0
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: Callable[[float, Stop], None] = lambda seconds, stop: stop.wait(seconds)
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")


@dataclass
class Partial:
    """What is known of a file being downloaded.

    `validator` is the ETag or date that a resumed part must agree with. With `trusted` a part
    without one may be resumed too, because a hash will be checked. With `checked` a size or a hash
    will tell whether the file is whole, so that the server need not say where it ends.
    """

    path: Path
    validator: str | None = None
    trusted: bool = False
    checked: bool = False


# Called before the first byte is written, with the total size (None if unknown) and the validator.
Started = Callable[[int | None, str | None], None]
# Called before bytes are written, with their number and the size that the part will then have.
Received = Callable[[int, int], None]


def download(
    url: str,
    partial: Partial,
    http: Http,
    stop: Stop,
    started: Started,
    received: Received = lambda count, end: None,
) -> None:
    """Complete `partial.path` from `url`, told of by the two callbacks.

    Raises `DownloadError` at once where the server refuses (401, 403, 404, 410 and the like), and
    where trying again has not helped within the limits of `http`.
    """
    until = http.clock() + http.deadline
    one = _Download(url, partial, http, stop, started, received, until)
    _repeat(without_password(url), http, stop, one.attempt, lambda: _size(partial.path))


def fetch_json(url: str, http: Http) -> tuple[Any, str | None]:
    """Return the JSON at `url`, and the URL of the next page where the server names one."""
    stop = Stop()
    shown = without_password(url)

    def attempt() -> tuple[Any, str | None]:
        with request(url, http.headers, http.timeout, stop) as response:
            _check_status(shown, response)
            body = b"".join(read_body(response, encoding_of(response, url)))
            following = re.search(r'<([^<>]+)>;\s*rel="next"', response.headers.get("Link", ""))
            try:
                return json.loads(body), following[1] if following else None
            except ValueError as error:
                raise DownloadError(f"{shown} is not JSON: {error}") from error

    return _repeat(shown, http, stop, attempt)


def _repeat(
    url: str,
    http: Http,
    stop: Stop,
    attempt: Callable[[], T],
    progress: Callable[[], int] = lambda: 0,
) -> T:
    """Call `attempt` until it is not interrupted; `progress` grows where one was of use."""
    began = http.clock()
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except Interrupted as error:
            failures = 1 if progress() > before else failures + 1
            spent = http.clock() - began
            seconds = _wait_before(failures, http, error)
            if failures >= http.attempts or spent + seconds > http.deadline:
                raise DownloadError(
                    f"{url}: gave up after {spent:.0f} s, the last {failures} attempts brought "
                    f"nothing: {error}",
                    getattr(error, "status", None),
                ) from error
            http.wait(seconds, stop)


class _Busy(Interrupted):
    """The server answered, and may answer better later."""

    def __init__(self, status: int, retry_after: float):
        super().__init__(f"status {status}")
        self.status = status
        self.retry_after = retry_after


def _wait_before(failures: int, http: Http, error: Interrupted) -> float:
    # Full jitter: many clients that failed together do not come back together.
    longest = min(http.longest_wait, http.first_wait * 2 ** (failures - 1))
    return max(http.draw() * longest, getattr(error, "retry_after", 0.0))


@dataclass
class _Download:
    url: str
    partial: Partial
    http: Http
    stop: Stop
    started: Started
    received: Received
    until: float

    def attempt(self) -> None:
        """Request what is missing and append it."""
        partial = self.partial
        headers = dict(self.http.headers)
        have = _size(partial.path) if partial.validator or partial.trusted else 0
        if have:
            headers["Range"] = f"bytes={have}-"
            if partial.validator:
                headers["If-Range"] = partial.validator
        with request(self.url, headers, self.http.timeout, self.stop) as response:
            if response.status == _UNFIT_RANGE and have == _content_range(response)[1]:
                return  # the part is the whole file: a process was killed before it said so
            self._receive(response, have)

    def _receive(self, response: Response, have: int) -> None:
        partial = self.partial
        shown = without_password(self.url)
        offset, total = _place(shown, response, have, partial)
        encoding = encoding_of(response, self.url)
        # A range of an encoded body is one of other bytes than the file's.
        validator = None if encoding else _validator(response)
        if offset and (encoding or validator not in (None, partial.validator or validator)):
            partial.path.unlink()
            partial.validator = None
            raise Interrupted("the file changed on the server")
        total = None if encoding else total
        self.started(total, validator)
        partial.validator = validator
        with partial.path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            end = self._copy(response, encoding, file, offset)
        if total is not None and end != total:
            raise Interrupted(f"the body ended after {end:,} of {total:,} bytes")
        if not (total is not None or encoding or response.is_chunked or partial.checked):
            self._check_end(end)

    def _copy(self, response: Response, encoding: str | None, file: BinaryIO, offset: int) -> int:
        """Write the body; return where it ends."""
        for data in read_body(response, encoding):
            offset += len(data)
            self.received(len(data), offset)
            file.write(data)
            if self.http.clock() > self.until:  # some bytes now and then are no stall
                raise DownloadError(
                    f"{without_password(self.url)}: not complete after {self.http.deadline:.0f} s"
                )
        return offset

    def _check_end(self, end: int) -> None:
        """Ask for what follows a body whose end nothing has told."""
        headers = {**self.http.headers, "Range": f"bytes={end}-"}
        with request(self.url, headers, self.http.timeout, self.stop) as response:
            status, length = response.status, response.content_length
            if status == _UNFIT_RANGE and _content_range(response)[1] in (None, end):
                return
            if status == 200 and length == end:
                return
            if status == 206 or status == _UNFIT_RANGE or (status == 200 and length is not None):
                raise Interrupted(f"the body ended after {end:,} bytes, and the file has others")
        raise DownloadError(
            f"{without_password(self.url)}: the server does not say where the file ends, so that a "
            "cut would not be noticed; give its size or SHA-256, as in a manifest"
        )


def _place(url: str, response: Response, have: int, partial: Partial) -> tuple[int, int | None]:
    """Return where the body belongs in the file, and the file's size where it is known."""
    status = response.status
    if status == 200:
        return 0, response.content_length
    if status == 206:
        start, size = _content_range(response)
        if start == have:
            return have, size
    if status in (206, _UNFIT_RANGE) and have:
        partial.path.unlink()  # a part that does not fit: begin anew
        raise Interrupted(f"the part of {have:,} bytes does not fit the file on the server")
    _check_status(url, response)
    raise DownloadError(f"{url}: the server answered with status {status}", status)


def _check_status(url: str, response: Response) -> None:
    """Raise what the status means, unless it is one of success."""
    status = response.status
    if status in _PASSING:
        raise _Busy(status, _retry_after(response.headers.get("Retry-After", "")))
    if status == PROXY_LOGIN:
        raise DownloadError(f"{url}: {proxy_refusal(status)}", status)
    if status >= 300:
        hint = "; a token may be needed" if status in (401, 403) else ""
        raise DownloadError(f"{url}: the server answered with status {status}{hint}", status)


def _content_range(response: Response) -> tuple[int | None, int | None]:
    """Return start and total of `bytes 100-199/200` or `bytes */200`; None where missing."""
    pattern = r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _validator(response: Response) -> str | None:
    """Return what `If-Range` can take: a strong ETag or a date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
