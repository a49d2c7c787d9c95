"""Download one file: resume it, retry transient errors, fail immediately on permanent ones.

A file counts as complete only if its end is known: from a length, chunks, its encoding, or because
the server has no more bytes. Otherwise a truncated body would look like a complete one.
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

from mlx_shards.http import (
    PROXY_AUTHENTICATION,
    Response,
    TransientError,
    content_encoding,
    proxy_refusal,
    read_body,
    request,
)
from mlx_shards.shard import DownloadError, strip_credentials
from mlx_shards.sync import Stop

T = TypeVar("T")

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Http:
    """Headers, timeouts and retries of requests; times in seconds.

    Retry n waits a random time in [0, initial_backoff * 2^(n-1)], at most `max_backoff`, and at
    least the time in `Retry-After`. `attempts` limits consecutive attempts without a new byte.
    `timeout` bounds connecting and each wait for bytes, `deadline` the whole file. Tests may
    replace `sleep(seconds, stop)`, `clock` and `jitter`.
    """

    attempts: int = 6
    initial_backoff: float = 1.0
    max_backoff: float = 60.0
    timeout: float = 30.0
    deadline: float = 3600.0
    headers: Mapping[str, str] = field(default_factory=dict)
    sleep: Callable[[float, Stop], None] = lambda seconds, stop: stop.wait(seconds)
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")


def fetch_json(url: str, http: Http) -> tuple[Any, str | None]:
    """Return the JSON at `url`, and the URL of the next page, if any."""
    stop = Stop()
    shown = strip_credentials(url)

    def attempt() -> tuple[Any, str | None]:
        with request(url, http.headers, http.timeout, stop) as response:
            _check_status(shown, response)
            body = b"".join(read_body(response, content_encoding(response, url)))
            next_page = re.search(r'<([^<>]+)>;\s*rel="next"', response.headers.get("Link", ""))
            try:
                return json.loads(body), next_page[1] if next_page else None
            except ValueError as error:
                raise DownloadError(f"{shown} is not JSON: {error}") from error

    return _retry(shown, http, stop, attempt)


def _retry(
    url: str,
    http: Http,
    stop: Stop,
    attempt: Callable[[], T],
    progress: Callable[[], int] = lambda: 0,
) -> T:
    """Call `attempt` until it succeeds; failures count from 1 again once `progress()` grows."""
    start = http.clock()
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except TransientError as error:
            failures = 1 if progress() > before else failures + 1
            elapsed = http.clock() - start
            # Full jitter: clients that failed together do not retry together.
            longest = min(http.max_backoff, http.initial_backoff * 2 ** (failures - 1))
            seconds = max(http.jitter() * longest, error.retry_after)
            if failures >= http.attempts or elapsed + seconds > http.deadline:
                raise DownloadError(
                    f"{url}: gave up after {elapsed:.0f} s, the last {failures} attempts received "
                    f"nothing: {error}",
                    error.status,
                ) from error
            http.sleep(seconds, stop)


@dataclass
class Download:
    """The download of one file to `path`; resumes an existing part.

    `started` is called before the first byte is written, with the total size (None if unknown) and
    the validator; `received` before each write, with the number of bytes and the size after it.
    `validator` is the ETag or date that the existing part must match. A part without one is resumed
    only if `hash_known`. If a size or hash is known, the caller will detect truncation, so the
    server need not state where the file ends.
    """

    url: str
    path: Path
    http: Http
    stop: Stop
    started: Callable[[int | None, str | None], None]
    received: Callable[[int, int], None]
    validator: str | None = None
    hash_known: bool = False
    size_known: bool = False

    def run(self) -> None:
        """Complete the file.

        Raises `DownloadError` immediately if the server refuses (401, 403, 404, 410 and the like),
        and when the retries within the limits of `http` have failed.
        """
        self._shown = strip_credentials(self.url)
        self._deadline = self.http.clock() + self.http.deadline
        _retry(self._shown, self.http, self.stop, self._attempt, self._size)

    def _attempt(self) -> None:
        """Request the missing bytes and append them."""
        headers = dict(self.http.headers)
        have = self._size() if self.validator or self.hash_known else 0
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.validator:
                headers["If-Range"] = self.validator
        with request(self.url, headers, self.http.timeout, self.stop) as response:
            out_of_range = response.status == _RANGE_NOT_SATISFIABLE
            if out_of_range and have == _content_range(response)[1]:
                return  # the file was complete before a process was killed
            self._receive(response, have)

    def _receive(self, response: Response, have: int) -> None:
        offset, total = self._locate(response, have)
        encoding = content_encoding(response, self.url)
        # A range of an encoded body counts encoded bytes, not those of the file.
        validator = None if encoding else _validator(response)
        if offset and (encoding or validator not in (None, self.validator or validator)):
            self.path.unlink()
            self.validator = None
            raise TransientError("the file changed on the server")
        total = None if encoding else total
        self.started(total, validator)
        self.validator = validator
        with self.path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            end = self._copy(response, encoding, file, offset)
        if total is not None and end != total:
            raise TransientError(f"the body ended after {end:,} of {total:,} bytes")
        end_known = total is not None or encoding or response.is_chunked
        if not (end_known or self.hash_known or self.size_known):
            self._check_end(end)

    def _locate(self, response: Response, have: int) -> tuple[int, int | None]:
        """Return the body's offset in the file, and the file's size if it is known."""
        status = response.status
        if status == 200:
            return 0, response.content_length
        if status == 206:
            start, size = _content_range(response)
            if start == have:
                return have, size
        if status in (206, _RANGE_NOT_SATISFIABLE) and have:
            self.path.unlink()  # a part that does not fit: start again
            raise TransientError(f"the part of {have:,} bytes does not fit the file on the server")
        _check_status(self._shown, response)
        raise DownloadError(f"{self._shown}: the server answered with status {status}", status)

    def _copy(self, response: Response, encoding: str | None, file: BinaryIO, offset: int) -> int:
        """Write the body and return its end."""
        for data in read_body(response, encoding):
            offset += len(data)
            self.received(len(data), offset)
            file.write(data)
            if self.http.clock() > self._deadline:  # a trickle of bytes never times out
                raise DownloadError(f"{self._shown}: not complete after {self.http.deadline:.0f} s")
        return offset

    def _check_end(self, end: int) -> None:
        """Check with another request that the file has no bytes after `end`."""
        headers = {**self.http.headers, "Range": f"bytes={end}-"}
        with request(self.url, headers, self.http.timeout, self.stop) as response:
            status, length = response.status, response.content_length
            out_of_range = status == _RANGE_NOT_SATISFIABLE
            if out_of_range and _content_range(response)[1] in (None, end):
                return
            if status == 200 and length == end:
                return
            if status == 206 or out_of_range or (status == 200 and length is not None):
                raise TransientError(f"the body ended after {end:,} bytes, and the file has more")
        raise DownloadError(
            f"{self._shown}: the server does not state where the file ends, so that "
            "truncation would go undetected; give its size or SHA-256, as in a manifest"
        )

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def _check_status(url: str, response: Response) -> None:
    """Raise the error of an unsuccessful status."""
    status = response.status
    if status in _RETRIED:
        retry_after = _retry_after(response.headers.get("Retry-After", ""))
        raise TransientError(f"status {status}", status, retry_after)
    if status == PROXY_AUTHENTICATION:
        raise DownloadError(f"{url}: {proxy_refusal(status)}", status)
    if status >= 300:
        hint = "; a token may be needed" if status in (401, 403) else ""
        raise DownloadError(f"{url}: the server answered with status {status}{hint}", status)


def _content_range(response: Response) -> tuple[int | None, int | None]:
    """Return start and total of `bytes 100-199/200` or `bytes */200`; None if missing."""
    pattern = r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)"
    match = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _validator(response: Response) -> str | None:
    """Return a strong ETag or a date, for `If-Range`."""
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
