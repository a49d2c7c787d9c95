import ctypes
import mmap
import sys

import pytest

from mlx_fastcpu.slots import (
    SELF_MAPS,
    UnsupportedError,
    loaded_slots,
    parse_maps,
    read_slots,
    write_slots,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")


def test_a_line_of_maps_gives_range_protection_and_file():
    (code, heap) = parse_maps(
        "7f00-7f20 r-xp 00001000 fe:01 42    /tmp/a folder/lib.so (deleted)\n"
        "8000-9000 rw-p 00000000 00:00 0 \n"
    )
    assert (code.start, code.end, code.inode) == (0x7F00, 0x7F20, 42)
    assert code.path == "/tmp/a folder/lib.so"
    assert code.protection == mmap.PROT_READ | mmap.PROT_EXEC
    assert heap.path == ""


@linux
def test_a_read_only_page_is_written_and_read_only_again():
    page = mmap.mmap(-1, mmap.PAGESIZE)
    handle = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(handle)
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ) == 0

    write_slots({address: 7, address + 8: 2**63})

    assert read_slots([address, address + 8]) == {address: 7, address + 8: 2**63}
    maps = parse_maps(SELF_MAPS.read_text())
    assert next(e for e in maps if e.start <= address < e.end).protection == mmap.PROT_READ


@linux
def test_a_library_that_is_not_loaded_is_refused():
    with pytest.raises(UnsupportedError, match=r"^no libnone\.so is loaded in this process$"):
        loaded_slots("libnone.so", lambda name: True)


@linux
def test_a_library_replaced_on_disk_is_refused(tmp_path):
    path = tmp_path / "libreplaced.so"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        other = tmp_path / "other"
        other.write_bytes(bytes(100))
        other.replace(path)
        with pytest.raises(UnsupportedError, match="restart Python"):
            loaded_slots("libreplaced.so", lambda name: True)
