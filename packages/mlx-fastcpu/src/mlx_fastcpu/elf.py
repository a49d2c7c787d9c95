"""Read from an ELF library which of its slots hold the addresses of imported functions.

Only the dynamic segment is read, because the loader needs it and so no tool strips it; section
headers may be missing. Field layouts and constants are those of the ELF-64 specification and of
the psABI supplements for x86-64 and AArch64.
"""

import struct
from collections import defaultdict
from collections.abc import Callable
from mmap import mmap

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC_ENTRY = struct.Struct("<qQ")
RELOCATION = struct.Struct("<QQq")
SYMBOL = struct.Struct("<IBBHQQ")

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 0, 2, 5, 6, 7, 8
DT_PLTREL, DT_JMPREL = 20, 23
# Relocations that fill a slot with the address of a function: GLOB_DAT and JUMP_SLOT.
SLOT_RELOCATIONS = {62: (6, 7), 183: (1025, 1026)}  # by e_machine: x86-64, AArch64


class ElfError(ValueError):
    """The bytes are not an ELF library of a layout this module knows."""


def import_slots(data: bytes | mmap, wanted: Callable[[str], bool]) -> dict[str, list[int]]:
    """Return the slots of each imported function whose name is `wanted`.

    Slots are addresses relative to where the library is loaded (see `load_bias`). Raises
    `ElfError` for anything but a little-endian ELF-64 library for x86-64 or AArch64.
    """
    try:
        return _import_slots(data, wanted)
    except (struct.error, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ElfError(f"damaged or unknown ELF file ({type(error).__name__}: {error})") from error


def load_bias(data: bytes | mmap, first_address: int, page_size: int) -> int:
    """Return what to add to the file's addresses, given where its first page was mapped."""
    first = min(address for kind, _, address, _ in _program_headers(data) if kind == PT_LOAD)
    return first_address - first // page_size * page_size


def _import_slots(data: bytes | mmap, wanted: Callable[[str], bool]) -> dict[str, list[int]]:
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


def _program_headers(data: bytes | mmap) -> list[tuple[int, int, int, int]]:
    """Return kind, file offset, address and size in the file of each segment."""
    header = HEADER.unpack_from(data)
    table, entry_size, count = header[5], header[9], header[10]
    entries = (PROGRAM_HEADER.unpack_from(data, table + i * entry_size) for i in range(count))
    return [(kind, offset, address, size) for kind, _, offset, address, _, size, _, _ in entries]


def _dynamic_entries(data: bytes | mmap) -> dict[int, int]:
    for kind, offset, _, size in _program_headers(data):
        if kind == PT_DYNAMIC:
            entries = dict(DYNAMIC_ENTRY.iter_unpack(data[offset : offset + size]))
            entries.pop(DT_NULL, None)
            return entries
    raise ElfError("no dynamic segment")


def _offset(data: bytes | mmap, address: int) -> int:
    """Return where in the file the loaded `address` comes from."""
    for kind, offset, start, size in _program_headers(data):
        if kind == PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ElfError(f"address {address:#x} lies in no segment")
