"""Find a loaded library in this process's memory, and read and write its import slots."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mlx_fastcpu.elf import import_slots, load_bias

SELF_MAPS = Path("/proc/self/maps")


class UnsupportedError(Exception):
    """This process or machine is not one whose slots can be re-pointed; the text says why."""


@dataclass(frozen=True)
class Mapping:
    """One line of `/proc/self/maps`: a range of memory, and the file behind it."""

    start: int
    end: int
    protection: int
    inode: int
    path: str


def parse_maps(text: str) -> list[Mapping]:
    """Return the mappings listed by the text of `/proc/self/maps`."""
    mappings = []
    for line in text.splitlines():
        span, flags, _, _, inode, *path = line.split(maxsplit=5)
        start, end = (int(each, 16) for each in span.split("-"))
        protection = (
            (mmap.PROT_READ if "r" in flags else 0)
            | (mmap.PROT_WRITE if "w" in flags else 0)
            | (mmap.PROT_EXEC if "x" in flags else 0)
        )
        file = path[0].removesuffix(" (deleted)") if path else ""
        mappings.append(Mapping(start, end, protection, int(inode), file))
    return mappings


def loaded_slots(library_name: str, wanted: Callable[[str], bool]) -> dict[str, list[int]]:
    """Return the absolute addresses of the wanted import slots of a library in this process.

    Raises `UnsupportedError` when it is not loaded, loaded twice, or no longer the file on disk,
    and `ElfError` when its layout is unknown.
    """
    mappings = [each for each in _mappings() if Path(each.path).name == library_name]
    paths = {each.path for each in mappings}
    if not paths:
        raise UnsupportedError(f"no {library_name} is loaded in this process")
    if len(paths) > 1:
        raise UnsupportedError(f"several {library_name} are loaded: {', '.join(sorted(paths))}")
    path = Path(paths.pop())
    if not path.exists() or path.stat().st_ino != mappings[0].inode:
        raise UnsupportedError(f"{path} was replaced after it was loaded; start Python again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        slots = import_slots(data, wanted)
        bias = load_bias(data, min(each.start for each in mappings), mmap.PAGESIZE)
    absolute = {name: [bias + each for each in addresses] for name, addresses in slots.items()}
    for address in (each for addresses in absolute.values() for each in addresses):
        if not any(each.start <= address < each.end for each in mappings):
            raise UnsupportedError(f"a slot of {library_name} lies outside of its memory")
    return absolute


def read_slots(addresses: Iterable[int]) -> dict[int, int]:
    """Return what each slot holds now."""
    return {each: ctypes.c_uint64.from_address(each).value for each in addresses}


def write_slots(values: dict[int, int]) -> None:
    """Write each slot; pages that were read-only (RELRO) are read-only again afterwards.

    Raises `UnsupportedError`, with nothing written, when the system forbids to write such a page.
    """
    pages = {each // mmap.PAGESIZE * mmap.PAGESIZE for each in values}
    locked = {
        page: each.protection
        for each in _mappings()
        for page in pages
        if each.start <= page < each.end and not each.protection & mmap.PROT_WRITE
    }
    try:
        for page, protection in locked.items():
            _protect(page, protection | mmap.PROT_WRITE)
        for address, value in values.items():
            ctypes.c_uint64.from_address(address).value = value
    finally:
        for page, protection in locked.items():
            _protect(page, protection)


def _mappings() -> list[Mapping]:
    try:
        return parse_maps(SELF_MAPS.read_text())
    except OSError as error:
        raise UnsupportedError(f"{SELF_MAPS} cannot be read: {error}") from error


def _protect(page: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection) != 0:
        raise UnsupportedError(f"mprotect: {os.strerror(ctypes.get_errno())}")
