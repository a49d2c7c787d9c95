"""A full disk is one line and leaves nothing; a folder that cannot be written can be read."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mlx_shards import (
    Cache,
    CorruptShard,
    DiskFull,
    ShardError,
    StreamConfig,
    TokenStream,
    write_manifest,
    write_shards,
    write_token_bin,
)

BIG = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=600)


@contextmanager
def largest_file(size: int):
    """Let no file grow beyond `size`: what a quota does, and needs no root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder: Path) -> list[str]:
    """All files but the empty ones of locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size
    )


def no_room(cache, shard) -> str:
    part = cache.folder / ".mlx-shards/part/a.bin"
    return (
        f"{part}: {os.strerror(errno.ENOSPC)}; free some space, take another folder, or lower "
        "max_bytes (20,000,000)"
    )


@pytest.mark.parametrize("size_is_known", [True, False])
def test_a_download_on_a_full_disk_is_one_line_and_its_part_goes(
    server, small_disk, quick, exactly, size_is_known
):
    server.lengths = size_is_known
    shard = server.add("a.bin", BIG)
    cache = Cache(small_disk, "20MB", http=quick)
    with pytest.raises(DiskFull, match=exactly(no_room(cache, shard))):
        cache.lease(shard)
    assert files_in(small_disk) == []
    assert len(server.requests) == 1  # trying again would not help
    server.add("b.bin", BIG[:500_000])
    with cache.lease(server.add("b.bin", BIG[:500_000])) as lease:
        assert lease.path.read_bytes() == BIG[:500_000]


def test_a_disk_without_room_for_a_record_is_named_too(server, small_disk, quick, exactly):
    cache = Cache(small_disk, "20MB", http=quick)
    (small_disk / "other").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096))
    shard = server.add("a.bin", b"12345")
    with pytest.raises(DiskFull, match=exactly(no_room(cache, shard))):
        cache.lease(shard)
    assert files_in(small_disk) == ["other"]
    (small_disk / "other").unlink()
    cache.lease(shard).release()


def test_a_full_disk_ahead_of_the_reader_is_tried_again_by_the_reader(
    server, tmp_path, quick, documents
):
    """The disk is full while the second shard is fetched ahead, and has room when it is read."""
    folder = tmp_path / "data"
    write_shards(documents(400), folder, shard_chars=1, group=200)
    shards = [server.add(path.name, path.read_bytes()) for path in sorted(folder.glob("*.parquet"))]
    config = StreamConfig(16, 1, bos_id=0, shuffle=False, packing="flat", epochs=1)
    cache = Cache(tmp_path / "cache", "1MB", http=quick)
    tokenize = lambda texts: [[1] * len(text) for text in texts]  # noqa: E731
    stream = TokenStream(shards, tokenize, config, cache=cache, prefetch=0, arrays="numpy")
    batches = iter(stream)
    cache.lease(shards[0]).release()
    with largest_file(2000):
        next(batches)
        ahead = stream._run._prefetcher
        with ahead._changed:
            assert ahead._changed.wait_for(lambda: shards[1].address in ahead._errors, 600)
    assert len(list(batches)) > 100
    assert (tmp_path / "cache" / shards[1].name).exists()


def test_a_file_that_may_not_grow_is_one_line_and_its_part_goes(server, tmp_path, quick):
    shard = server.add("a.bin", BIG)
    cache = Cache(tmp_path, "20MB", http=quick)
    with largest_file(1_000_000), pytest.raises(DiskFull) as caught:
        cache.lease(shard)
    assert str(caught.value).startswith(f"{tmp_path}/.mlx-shards/part/a.bin: File too large; free")
    assert files_in(tmp_path) == []
    cache.lease(shard).release()


def noise(count: int, length: int) -> list[str]:
    random = np.random.default_rng(0)
    return [random.bytes(length // 2).hex() for _ in range(count)]


def test_shards_that_do_not_fit_leave_nothing_and_can_be_made_again(small_disk, exactly):
    folder = small_disk / "out"
    message = (
        f"{folder}/shard_00002.parquet: {os.strerror(errno.ENOSPC)}; free some space; the 2 shards "
        "written before it are removed"
    )
    with pytest.raises(DiskFull, match=exactly(message)):
        write_shards(noise(40, 100_000), folder, shard_chars=800_000, group=1)
    assert files_in(small_disk) == []
    assert len(write_shards(noise(4, 1000), folder)) == 1


def test_shards_that_fail_half_way_leave_nothing(tmp_path, documents):
    def some():
        yield from documents(50)
        raise KeyError("the source broke")

    with pytest.raises(KeyError):
        write_shards(some(), tmp_path, shard_chars=500, group=5)
    assert files_in(tmp_path) == []


def test_tokens_and_manifests_that_do_not_fit_are_named(tmp_path, exactly):
    path = tmp_path / "a.bin"
    with largest_file(1000), pytest.raises(DiskFull) as caught:
        write_token_bin(path, np.arange(5000))
    assert str(caught.value) == f"{path}: File too large; free some space"
    (tmp_path / ("x" * 200 + ".bin")).write_bytes(b"12")
    with largest_file(100), pytest.raises(DiskFull) as caught:
        write_manifest(tmp_path)
    assert str(caught.value) == f"{tmp_path}/manifest.json: File too large; free some space"
    assert files_in(tmp_path) == ["x" * 200 + ".bin"]


@pytest.fixture
def locked_away():
    """Return a function that makes a folder read-only, also for root: it is nobody for a while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        is_root = os.geteuid() == 0

        def lock(what: Path) -> None:
            for path in [what, *what.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            if is_root:
                os.seteuid(65534)

        yield folder / "cache", lock
        if is_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


@pytest.fixture
def cached(server, locked_away, quick):
    """A cache folder of two shards, one of them under another name's hash."""
    folder, lock = locked_away
    shards = [server.add(name, name.encode()) for name in ("one/a.bin", "two/a.bin")]
    shards = [type(each)("a.bin", each.location) for each in shards]
    for shard in shards:
        Cache(folder, "1MB", http=quick).lease(shard).release()
    return folder, shards, lock


def everything_in(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_complete_cache_that_cannot_be_written_is_read(server, cached, quick, fetch_ahead):
    folder, shards, lock = cached
    lock(folder)
    before = everything_in(folder)
    cache = Cache(folder, "1MB", http=quick)
    for shard, name in zip(shards, (b"one/a.bin", b"two/a.bin"), strict=True):
        with cache.lease(shard) as lease, Cache(folder, "1MB").lease(shard):
            assert lease.path.read_bytes() == name
        ahead = fetch_ahead(cache, shard)
        assert ahead.path == lease.path
        assert not cache.reject(shard, ahead)
    assert everything_in(folder) == before
    assert len(server.requests) == 2  # those that filled it


def test_files_without_records_in_a_folder_that_cannot_be_written_are_read(
    server, locked_away, quick
):
    folder, lock = locked_away
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"12345")
    shard = server.add("a.bin", b"12345", size=5)
    lock(folder)
    with Cache(folder, "1MB", http=quick).lease(shard) as lease:
        assert lease.path.read_bytes() == b"12345"
    assert server.requests == []


def test_what_a_read_only_cache_lacks_is_named(server, cached, quick, exactly):
    folder, _, lock = cached
    lock(folder)
    shard = server.add("b.bin", b"x")
    message = (
        f"{shard.location} is not in {folder}, which cannot be written: use another cache folder, "
        "or fetch it there first"
    )
    cache = Cache(folder, "1MB", http=quick)
    assert cache.claim_ahead(shard) is None
    with pytest.raises(ShardError, match=exactly(message)):
        cache.lease(shard)


def test_a_damaged_shard_of_a_read_only_cache_is_named_and_left(cached, quick, exactly):
    folder, shards, lock = cached
    (folder / "a.bin").write_bytes(b"on")
    lock(folder)
    message = (
        f"{folder}/a.bin has 2 bytes instead of 9, and {folder} cannot be written; use another "
        "cache folder"
    )
    with pytest.raises(CorruptShard, match=exactly(message)):
        Cache(folder, "1MB", http=quick).lease(shards[0])
    assert (folder / "a.bin").read_bytes() == b"on"


def test_a_reader_of_a_read_only_cache_keeps_others_from_deleting(cached, quick, server):
    """The folder is read-only to this process; the owner's needs room meanwhile."""
    folder, shards, lock = cached
    lock(folder)
    with Cache(folder, "1MB", http=quick).lease(shards[0]) as lease:
        if os.getuid() == 0:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        owner = Cache(folder, 18, max_files=2, http=quick, room_timeout=0)
        owner.lease(server.add("b.bin", b"123456789")).release()
        assert lease.path.exists()
        assert not any(path.exists() for path in folder.glob("*/a.bin"))  # the other one went


def test_a_new_cache_in_a_folder_that_cannot_be_written_is_an_error(locked_away):
    folder, lock = locked_away
    lock(folder.parent)
    with pytest.raises(PermissionError):
        Cache(folder, "1MB")


def test_the_command_line_names_the_full_disk(server, tmp_path):
    shard = server.add("a.bin", BIG)
    code = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6));"
        "from mlx_shards.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "fetch", shard.location, "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: {tmp_path}/.mlx-shards/part/a.bin: File too large; free some space, take another "
        "folder, or lower max_bytes (1,000,000,000,000,000)\n"
    )
