"""S1, S2, S3 and S11: the bounds hold, nothing foreign goes, nothing hangs, nothing comes twice."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_shards import Cache, CacheFull, DownloadError, ShardError

SIZES = [100, 180, 260, 340, 90, 150, 210, 300]
MAX_BYTES, MAX_FILES = 800, 4


@pytest.fixture
def shards(server):
    random = np.random.default_rng(0)
    return [server.add(f"{i}.bin", random.bytes(size)) for i, size in enumerate(SIZES)]


def on_disk(folder: Path) -> list[int]:
    """Sizes of all shards, downloads and bad files in a cache folder."""
    control = folder / ".mlx-shards"
    files = [path for path in folder.iterdir() if path.is_file()]
    files += [path for kind in ("part", "bad") for path in (control / kind).iterdir()]
    return [path.stat().st_size for path in files]


# An operation: which loader, and whether it takes a shard, fetches it ahead, lets its oldest lease
# go, or has a download cut off in the middle.
OPERATION = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["lease", "lease", "lease", "ahead", "release", "cut"]),
    st.integers(0, len(SIZES) - 1),
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPERATION, min_size=100, max_size=100))
def test_any_accesses_of_three_loaders_stay_within_the_bounds(
    server, shards, quick, fetch_ahead, operations
):
    """10 examples of 100 operations; no loader holds more leases than can be held together."""
    with tempfile.TemporaryDirectory() as folder:
        caches = [Cache(folder, MAX_BYTES, MAX_FILES, http=quick) for _ in range(3)]
        held = [[], [], []]
        for loader, what, which in operations:
            shard, cache, mine = shards[which], caches[loader], held[loader]
            if what == "release" or (what in ("lease", "cut") and mine):
                if mine:
                    mine.pop(0)[1].release()
                continue
            if what == "cut":
                server.fault(shard.name, ("truncate", 50), ("status", 404))
            if what == "ahead":
                lease = fetch_ahead(cache, shard)
                if lease:
                    lease.release()
            elif sum(SIZES[i] for leases in held for i, _ in leases) + SIZES[which] <= MAX_BYTES:
                try:
                    mine.append((which, cache.lease(shard)))
                except DownloadError:
                    assert what == "cut"
            server._faults.clear()
            sizes = on_disk(Path(folder))
            assert sum(sizes) <= MAX_BYTES
            assert len(sizes) <= MAX_FILES
            for i, lease in (each for leases in held for each in leases):
                assert lease.path.read_bytes() == server.files[f"/{i}.bin"]
        for leases in held:
            for _, lease in leases:
                lease.release()


def test_the_bounds_hold_at_every_moment_of_concurrent_use(server, shards, tmp_path, quick):
    ended = threading.Event()
    highest = [0, 0]
    failures = []

    def watch():
        cache = Cache(tmp_path, MAX_BYTES, MAX_FILES)
        while not ended.is_set():
            with cache._index.locked():  # no rename between two looks
                sizes = on_disk(tmp_path)
            ended.wait(0.001)  # let others have the folder
            highest[:] = max(highest[0], sum(sizes)), max(highest[1], len(sizes))

    def use(seed):
        cache = Cache(tmp_path, MAX_BYTES, MAX_FILES, http=quick)
        for which in np.random.default_rng(seed).integers(0, len(SIZES), 25):
            try:
                with cache.lease(shards[which]) as lease:
                    assert lease.path.read_bytes() == server.files[f"/{which}.bin"]
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    watcher.join()
    assert not failures
    assert 0 < highest[0] <= MAX_BYTES
    assert 0 < highest[1] <= MAX_FILES


def test_the_least_recently_used_shard_goes_first(shards, tmp_path, quick):
    cache = Cache(tmp_path, "1MB", max_files=3, http=quick)
    for which in (0, 1, 2, 0, 3):
        cache.lease(shards[which]).release()
    assert sorted(each.name for each in tmp_path.glob("*.bin")) == ["0.bin", "2.bin", "3.bin"]
    assert cache.stats.evictions == 1


def test_a_new_cache_adopts_what_an_old_one_left_in_the_order_of_use(shards, tmp_path, quick):
    first = Cache(tmp_path, "1MB", http=quick)
    for age, which in enumerate((2, 0, 1)):
        first.lease(shards[which]).release()
        os.utime(tmp_path / f".mlx-shards/owned/{which}.bin", (age, age))
    second = Cache(tmp_path, "1MB", max_files=2, http=quick)
    second.lease(shards[3]).release()
    assert sorted(each.name for each in tmp_path.glob("*.bin")) == ["1.bin", "3.bin"]
    second.lease(shards[1]).release()
    assert second.stats.hits == 1


def test_a_leased_shard_stays_and_who_needs_its_room_is_told(shards, tmp_path, quick, exactly):
    cache = Cache(tmp_path, 300, http=quick, room_timeout=0.1)
    with cache.lease(shards[2]) as lease:
        message = (
            f"no room for 0.bin (100 bytes): all shards in {tmp_path} have been in use for "
            "0.1 s; raise max_bytes (300) or max_files (None)"
        )
        with pytest.raises(CacheFull, match=exactly(message)):
            cache.lease(shards[0])
        assert lease.path.exists()
    cache.lease(shards[0]).release()


def test_who_waits_for_room_gets_it_when_a_lease_ends(shards, tmp_path, quick):
    cache = Cache(tmp_path, 300, http=quick)
    lease = cache.lease(shards[2])
    released = cache.lease(shards[0], before_waiting=lease.release)
    assert released.path.exists()
    assert not lease.path.exists()


def test_what_is_fetched_ahead_pushes_out_nothing_that_is_needed(
    shards, tmp_path, quick, fetch_ahead
):
    cache = Cache(tmp_path, "1MB", max_files=2, http=quick)
    with cache.lease(shards[0]):
        ahead = fetch_ahead(cache, shards[1])
        assert ahead
        assert fetch_ahead(cache, shards[2]) is None  # one is read, one fetched ahead
        with cache.lease(shards[2]):  # but who reads comes before who fetches ahead
            assert not (tmp_path / "1.bin").exists()
        ahead.release()


def test_files_that_were_not_downloaded_are_never_deleted(shards, tmp_path, quick):
    foreign = {tmp_path / "notes.txt": b"x" * 500, tmp_path / "5.bin": b"y" * 700}
    for path, data in foreign.items():
        path.write_bytes(data)
    cache = Cache(tmp_path, 400, max_files=1, http=quick)
    for which in (0, 1, 2, 3, 5, 0):
        with cache.lease(shards[which]) as lease:
            assert lease.path.exists()
    for path, data in foreign.items():
        assert path.read_bytes() == data
    assert len(on_disk(tmp_path)) == 3


def test_a_foreign_file_of_the_wrong_size_is_named_and_left(server, tmp_path, quick, exactly):
    shard = server.add("a.bin", b"12345", size=5)
    (tmp_path / "a.bin").write_bytes(b"mine")
    message = (
        f"{tmp_path}/a.bin was not downloaded by this cache and has 4 bytes, but "
        f"{shard.location} has 5; move it away"
    )
    with pytest.raises(ShardError, match=exactly(message)):
        Cache(tmp_path, 100, http=quick).lease(shard)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_a_shard_damaged_on_disk_is_downloaded_again(server, shards, tmp_path, quick):
    cache = Cache(tmp_path, 1000, http=quick)
    path = cache.lease(shards[0]).path
    path.write_bytes(path.read_bytes()[:-1])
    with cache.lease(shards[0]) as lease:
        assert lease.path.read_bytes() == server.files["/0.bin"]
    assert cache.stats.corrupt == 1


@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_bound_smaller_than_a_shard_fails_at_once_and_names_both(
    server, tmp_path, quick, exactly, size_is_known
):
    shard = server.add("a.bin", bytes(5000), size=5000 if size_is_known else None)
    cache = Cache(tmp_path, 4000, http=quick)
    message = (
        f"shard a.bin has 5,000 bytes, but the cache {tmp_path} is bounded to 4,000; raise "
        "max_bytes"
    )
    with pytest.raises(CacheFull, match=exactly(message)):
        cache.lease(shard)
    assert len(server.requests) == (0 if size_is_known else 1)
    assert on_disk(tmp_path) == []


def test_bounds_must_make_sense(tmp_path, exactly):
    with pytest.raises(ValueError, match=exactly("max_files must be at least 1, got 0")):
        Cache(tmp_path, 1, max_files=0)
    with pytest.raises(
        ValueError, match=exactly("expected a size such as 500MB or 20GB, got '20GiB'")
    ):
        Cache(tmp_path, "20GiB")


LOADER = """
import json, sys
from mlx_shards import Cache, Shard
folder, url, count = sys.argv[1:]
cache = Cache(folder, "1GB")
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(count)):
    with cache.lease(Shard(f"{i}.bin", f"{url}/{i}.bin")) as lease:
        assert lease.path.stat().st_size == 200_000 + i, lease.path
print(json.dumps(cache.stats.downloads))
"""


def test_two_processes_fetch_each_shard_once(server, tmp_path, start):
    for i in range(6):
        server.add(f"{i}.bin", bytes(200_000 + i))
    command = [sys.executable, "-c", LOADER, str(tmp_path), server.url, "6"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [start(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both start together, on a cold cache
        process.stdin.write("\n")
        process.stdin.flush()
    downloads = [json.loads(process.communicate()[0]) for process in processes]
    assert sum(downloads) == 6
    assert len(server.requests) == 6


KILLED = """
import os, signal, sys
from mlx_shards import Cache, Shard
folder, url = sys.argv[1:]
cache = Cache(folder, 300_000)
lease = cache.lease(Shard("0.bin", f"{url}/0.bin"))
count = cache._count
def kill(**more):
    count(**more)
    os.kill(os.getpid(), signal.SIGKILL)
cache._count = kill
cache.lease(Shard("1.bin", f"{url}/1.bin"))
"""


def test_leases_and_downloads_of_a_killed_process_block_nobody(server, tmp_path, quick):
    shards = [server.add(f"{i}.bin", bytes(200_000 + i)) for i in range(2)]
    command = [sys.executable, "-c", KILLED, str(tmp_path), server.url]
    assert subprocess.run(command, check=False).returncode == -9
    cache = Cache(tmp_path, 300_000, http=quick)
    with cache.lease(shards[1]) as lease:
        assert lease.path.read_bytes() == bytes(200_001)
    assert on_disk(tmp_path) == [200_001]
