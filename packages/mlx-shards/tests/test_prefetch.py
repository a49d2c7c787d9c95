"""S8 and S10: prefetching hides downloads, errors reach the consumer, and threads end."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from mlx_shards import (
    Cache,
    CorruptShard,
    DownloadError,
    Http,
    RowError,
    StreamConfig,
    TokenStream,
    local_shards,
)
from mlx_shards.prefetch import BackgroundIterator
from mlx_shards.sync import Stop

CONFIG = StreamConfig(32, 2, bos_id=0, packing="pad", shuffle=False, epochs=1)


def our_threads():
    return [each.name for each in threading.enumerate() if each.name.startswith("mlx-shards")]


def ends():
    """Return whether all threads of streams end soon."""
    until = time.monotonic() + 600
    while our_threads() and time.monotonic() < until:
        threading.Event().wait(0.01)
    return not our_threads()


@pytest.fixture
def remote(server, folder_of):
    """Return a function that serves shards of so many documents."""

    def serve(*counts):
        folder, _ = folder_of(*counts)
        return [server.add(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]

    return serve


@pytest.mark.parametrize(("prefetch", "ahead"), [(2, 1), (0, 1), (1, 0), (0, 0)])
def test_shards_come_while_the_consumer_computes(
    server, remote, tokenize, tmp_path, quick, prefetch, ahead
):
    """How much waiting that saves is measured by the benchmark."""
    shards = remote(2, 2, 2)
    second = []
    server.gate = lambda path: path == "/" + shards[1].name and second.append(path)
    cache = Cache(tmp_path, "1MB", http=quick)
    options = {"prefetch": prefetch, "shards_ahead": ahead, "arrays": "numpy"}
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache, **options)
    batches = iter(stream)
    next(batches)  # of the first shard; from here on the consumer computes
    until = time.monotonic() + (600 if prefetch or ahead else 0.2)
    while not second and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert bool(second) == bool(prefetch or ahead)
    stream.close()


def test_without_prefetching_there_are_no_threads(remote, tokenize, tmp_path, quick):
    cache = Cache(tmp_path / "cache", "1MB", http=quick)
    options = {"prefetch": 0, "shards_ahead": 0, "arrays": "numpy"}
    stream = TokenStream(remote(8), tokenize, CONFIG, cache=cache, **options)
    for _ in stream:
        assert our_threads() == []


def fail_in_loop(stream):
    for _ in stream:
        1 / 0  # noqa: B018


@pytest.mark.parametrize("how", ["break", "generator close", "close", "with", "end", "exception"])
def test_no_thread_is_left(remote, tokenize, tmp_path, quick, how):
    cache = Cache(tmp_path / "cache", "1MB", max_files=2, http=quick)
    stream = TokenStream(remote(20, 20, 20), tokenize, CONFIG, cache=cache, shards_ahead=2)
    if how == "generator close":
        batches = iter(stream)
        next(batches)
        assert our_threads()
        batches.close()
    elif how == "exception":
        with pytest.raises(ZeroDivisionError):
            fail_in_loop(stream)
    elif how == "with":
        with stream:
            next(iter(stream))
    else:
        for _ in stream:
            assert our_threads()
            if how == "break":
                break
            if how == "close":
                stream.close()
    assert ends()


def test_closing_interrupts_a_stalled_download(server, remote, tokenize, tmp_path):
    shards = remote(8, 8)
    server.fault(shards[1].name, ("stall", 100))
    cache = Cache(tmp_path / "cache", "1MB", http=Http(timeout=3600))
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache)
    batches = iter(stream)
    for _ in range(4):
        next(batches)  # all of the first shard; the second never comes
    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join(600)
    assert not closing.is_alive()
    assert our_threads() == []
    assert list(batches) == []


def test_closing_does_not_wait_until_a_large_buffer_is_full(folder_of):
    """Local shards, and a tokenizer that is slow: 40 calls of 50 ms would fill the buffer."""
    folder, _ = folder_of(*[128] * 40, group=128)
    begun, closing, calls = threading.Event(), threading.Event(), []

    def tokenize(texts):
        calls.append(len(texts))
        begun.set()
        closing.wait()
        time.sleep(0.05)
        return [[1] for _ in texts]

    config = StreamConfig(32, 2, bos_id=0, buffer_size=40 * 128)
    stream = TokenStream(local_shards(folder), tokenize, config)
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    begun.wait()
    closing.set()
    stream.close()
    thread.join()
    assert len(calls) < 40
    assert our_threads() == []


INTERRUPTED = """
import sys, threading, time
from mlx_shards import Cache, Http, StreamConfig, TokenStream, http_shards
folder, url = sys.argv[1:]
config = StreamConfig(32, 2, bos_id=0, packing="pad", shuffle=False, epochs=1)
stream = TokenStream(
    http_shards(url + "/shard_{:05d}.parquet", range(2)),
    lambda texts: [[1, 2, 3] for _ in texts],
    config,
    cache=Cache(folder, "1MB", http=Http(timeout=600)),
    arrays="numpy",
)
try:
    for number, _ in enumerate(stream, 1):
        if number == 4:
            print("waiting", flush=True)
except KeyboardInterrupt:
    began = time.monotonic()
    while threading.active_count() > 1 and time.monotonic() < began + 600:
        time.sleep(0.01)
    print(threading.active_count(), flush=True)
"""


def test_control_c_during_a_stalled_download_leaves_no_thread(server, remote, tmp_path, start):
    shards = remote(8, 8)
    server.fault(shards[1].name, ("stall", 100))
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "cache"), server.url]
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert out == "1\n", err
    assert process.returncode == 0, err


def test_an_error_comes_after_the_batches_before_it_and_is_asked_for_once(
    server, remote, tokenize, tmp_path, quick, exactly
):
    shards = remote(8, 8)
    server.fault(shards[1].name, *[("status", 404)] * 3)
    cache = Cache(tmp_path / "cache", "1MB", http=quick)
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache)
    batches = iter(stream)
    assert len([next(batches) for _ in range(4)]) == 4
    message = f"{shards[1].location}: the server answered with status 404"
    with pytest.raises(DownloadError, match=exactly(message)):
        next(batches)
    assert len(server.requests_of(shards[1].name)) == 1
    assert ends()


def test_a_shard_that_cannot_be_read_is_downloaded_once_more(
    server, remote, tokenize, tmp_path, quick
):
    (shard,) = remote(8)
    server.fault(shard.name, ("wrong",))  # no hash is known: only the reader can notice
    cache = Cache(tmp_path / "cache", "1MB", http=quick)
    assert len(list(TokenStream([shard], tokenize, CONFIG, cache=cache))) == 4
    assert cache.stats.corrupt == 1


def test_a_shard_that_stays_unreadable_is_named(server, tokenize, tmp_path, quick):
    shard = server.add("a.parquet", b"not parquet")
    cache = Cache(tmp_path, "1MB", http=quick)
    with pytest.raises(CorruptShard) as caught:
        next(iter(TokenStream([shard], tokenize, CONFIG, cache=cache)))
    start = f"{shard.location} cannot be read, also after a new download: {tmp_path}/a.parquet: "
    assert str(caught.value).startswith(start)
    assert len(server.requests) == 2


def test_an_error_of_the_tokenizer_reaches_the_consumer(remote, tmp_path, quick, exactly):
    def fail(texts):
        raise RuntimeError("no such token")

    cache = Cache(tmp_path / "cache", "1MB", http=quick)
    (shard,) = remote(8)
    message = f"{shard.location}: row 1: the tokenizer failed: RuntimeError: no such token"
    with pytest.raises(RowError, match=exactly(message)) as caught:
        next(iter(TokenStream([shard], fail, replace(CONFIG, shuffle=False), cache=cache)))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert ends()


def test_downloads_ahead_stop_where_the_cache_is_full(server, remote, tokenize, tmp_path, quick):
    shards = remote(8, 8, 8, 8, 8)
    cache = Cache(tmp_path / "cache", "1MB", max_files=2, http=quick)
    stream = TokenStream(shards, tokenize, CONFIG, cache=cache, shards_ahead=4)
    assert len(list(stream)) == 20
    assert len(server.requests) == 5  # nothing was pushed out before it was read
    assert cache.stats.downloads == 5


def test_remote_shards_need_a_cache(remote, tokenize, exactly):
    (shard,) = remote(8)
    message = f"{shard.location} must be downloaded: pass cache=Cache(...)"
    with pytest.raises(ValueError, match=exactly(message)):
        next(iter(TokenStream([shard], tokenize, CONFIG)))


def test_no_more_batches_are_made_than_asked_for():
    made, full = [], threading.Event()

    def make():
        for number in range(50):
            made.append(number)
            if number == 1:
                full.set()
            yield number

    ahead = BackgroundIterator(make, 2, Stop())
    full.wait(600)
    threading.Event().wait(0.1)  # the time in which a third would be made
    assert made == [0, 1]
    assert next(ahead) == 0
    ahead.close()
