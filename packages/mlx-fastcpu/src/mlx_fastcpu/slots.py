"""Import slots of a loaded library: the memory words with the addresses of the functions it calls.

They are found in the library's ELF file. Only the dynamic segment is read: the loader needs it, so
it is never stripped; section headers may be missing. Field layouts and constants follow the ELF-64
specification and the psABI supplements for x86-64 and AArch64.
"""

import ctypes
import mmap
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SELF_MAPS = Path("/proc/self/maps")

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC_ENTRY = struct.Struct("<qQ")
RELOCATION = struct.Struct("<QQq")
SYMBOL = struct.Struct("<IBBHQQ")

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 0, 2, 5, 6, 7, 8
DT_PLTREL, DT_JMPREL = 20, 23
# Relocations that write the address of a function into a slot: GLOB_DAT and JUMP_SLOT.
SLOT_RELOCATIONS = {62: (6, 7), 183: (1025, 1026)}  # by e_machine: x86-64, AArch64


class UnsupportedError(Exception):
    """Nothing can be changed in this process or on this machine, for the reason in the message."""


class ElfError(ValueError):
    """The bytes are not an ELF library of a known layout."""


@dataclass(frozen=True)
class Mapping:
    """One line of `/proc/self/maps`: a range of memory and its file."""

    start: int
    end: int
    protection: int
    inode: int
    path: str


def parse_maps(text: str) -> list[Mapping]:
    """Parse the text of `/proc/self/maps`."""
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

    Raises `UnsupportedError` when it is not loaded, loaded twice, no longer the file on disk, or
    has an unknown layout.
    """
    mappings = [each for each in _mappings() if Path(each.path).name == library_name]
    paths = {each.path for each in mappings}
    if not paths:
        raise UnsupportedError(f"no {library_name} is loaded in this process")
    if len(paths) > 1:
        raise UnsupportedError(f"several {library_name} are loaded: {', '.join(sorted(paths))}")
    path = Path(paths.pop())
    if not path.exists() or path.stat().st_ino != mappings[0].inode:
        raise UnsupportedError(f"{path} was replaced after it was loaded; restart Python")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            slots = import_slots(data, wanted)
            bias = load_bias(data, min(each.start for each in mappings), mmap.PAGESIZE)
        except ElfError as error:
            raise UnsupportedError(f"{library_name} has an unknown layout: {error}") from error
    absolute = {name: [bias + each for each in addresses] for name, addresses in slots.items()}
    for address in (each for addresses in absolute.values() for each in addresses):
        if not any(each.start <= address < each.end for each in mappings):
            raise UnsupportedError(f"a slot of {library_name} lies outside of its memory")
    return absolute


def read_slots(addresses: Iterable[int]) -> dict[int, int]:
    """Return the value of each slot."""
    return {each: ctypes.c_uint64.from_address(each).value for each in addresses}


def write_slots(values: dict[int, int]) -> None:
    """Write each slot, and restore the protection of read-only (RELRO) pages.

    Raises `UnsupportedError`, with nothing written, when the system does not permit that.
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


def import_slots(data: bytes | mmap.mmap, wanted: Callable[[str], bool]) -> dict[str, list[int]]:
    """Return the slots of each imported function whose name is `wanted`.

    Slots are virtual addresses of the file (see `load_bias`). Raises `ElfError` for anything except
    a little-endian ELF-64 library for x86-64 or AArch64.
    """
    try:
        return _import_slots(data, wanted)
    except (struct.error, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ElfError(f"damaged or unknown ELF file ({type(error).__name__}: {error})") from error


def load_bias(data: bytes | mmap.mmap, first_address: int, page_size: int) -> int:
    """Return the offset from the file's addresses to memory, given where its first page is."""
    first = min(address for kind, _, address, _ in _program_headers(data) if kind == PT_LOAD)
    return first_address - first // page_size * page_size


def _mappings() -> list[Mapping]:
    try:
        return parse_maps(SELF_MAPS.read_text())
    except OSError as error:
        raise UnsupportedError(f"{SELF_MAPS} cannot be read: {error}") from error


def _protect(page: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection) != 0:
        raise UnsupportedError(f"mprotect: {os.strerror(ctypes.get_errno())}")


def _import_slots(data: bytes | mmap.mmap, wanted: Callable[[str], bool]) -> dict[str, list[int]]:
    if data[:6] != ELF64_LITTLE_ENDIAN:
        raise ElfError("not a little-endian ELF-64 file")
    machine = HEADER.unpack_from(data)[2]
    if machine not in SLOT_RELOCATIONS:
        raise ElfError(f"e_machine {machine} is neither x86-64 nor AArch64")
    dynamic = _dynamic_entries(data)
    if dynamic.get(DT_PLTREL, DT_RELA) != DT_RELA:
        raise ElfError("its relocations carry no addends (REL instead of RELA)")
    symbols = _offset(data, dynamic[DT_SYMTAB])
    names = _offset(data, dynamic[DT_STRTAB])

    slots = defaultdict(list)
    for table, size in ((DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)):
        if table not in dynamic:
            continue
        start = _offset(data, dynamic[table])
        for address, kind_and_symbol, _ in RELOCATION.iter_unpack(
            data[start : start + dynamic[size]]
        ):
            if kind_and_symbol & 0xFFFFFFFF not in SLOT_RELOCATIONS[machine]:
                continue
            symbol = SYMBOL.unpack_from(data, symbols + (kind_and_symbol >> 32) * SYMBOL.size)
            name_offset, section = symbol[0], symbol[3]
            if section != 0:  # defined by this library itself
                continue
            start_of_name = names + name_offset
            name = data[start_of_name : data.find(b"\0", start_of_name)].decode()
            if wanted(name):
                slots[name].append(address)
    return dict(slots)


def _program_headers(data: bytes | mmap.mmap) -> list[tuple[int, int, int, int]]:
    """Return kind, file offset, address and size in the file of each segment."""
    header = HEADER.unpack_from(data)
    table, entry_size, count = header[5], header[9], header[10]
    entries = (PROGRAM_HEADER.unpack_from(data, table + i * entry_size) for i in range(count))
    return [(kind, offset, address, size) for kind, _, offset, address, _, size, _, _ in entries]


def _dynamic_entries(data: bytes | mmap.mmap) -> dict[int, int]:
    for kind, offset, _, size in _program_headers(data):
        if kind == PT_DYNAMIC:
            entries = dict(DYNAMIC_ENTRY.iter_unpack(data[offset : offset + size]))
            entries.pop(DT_NULL, None)
            return entries
    raise ElfError("no dynamic segment")


def _offset(data: bytes | mmap.mmap, address: int) -> int:
    """Return the position in the file of the loaded `address`."""
    for kind, offset, start, size in _program_headers(data):
        if kind == PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ElfError(f"address {address:#x} lies in no segment")
