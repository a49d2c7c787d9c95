import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_fastcpu.slots import (
    DYNAMIC_ENTRY,
    HEADER,
    PROGRAM_HEADER,
    RELOCATION,
    SYMBOL,
    ElfError,
    import_slots,
    load_bias,
)

X86_64, AARCH64 = 62, 183
ADDRESS = 0x10000  # the load address in the file


def make_elf(machine=X86_64, kind=7, names=("cblas_sgemm", "puts"), defined=()):
    """A library with one slot per name, at 0x5000, 0x5008..., laid out by the specification."""
    program_headers = HEADER.size
    strings = program_headers + 2 * PROGRAM_HEADER.size
    string_table = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    symbols = strings + len(string_table)
    symbol_table = SYMBOL.pack(0, 0, 0, 0, 0, 0)
    relocation_table, offset = b"", 1
    for i, name in enumerate(names):
        symbol_table += SYMBOL.pack(offset, 0x12, 0, 9 if name in defined else 0, 0, 0)
        relocation_table += RELOCATION.pack(0x5000 + 8 * i, (i + 1) << 32 | kind, 0)
        offset += len(name) + 1
    relocations = symbols + len(symbol_table)
    dynamic = relocations + len(relocation_table)
    entries = {5: ADDRESS + strings, 6: ADDRESS + symbols, 23: ADDRESS + relocations}
    entries |= {2: len(relocation_table), 20: 7, 0: 0}
    dynamic_table = b"".join(DYNAMIC_ENTRY.pack(*entry) for entry in entries.items())
    end = dynamic + len(dynamic_table)
    return (
        HEADER.pack(
            b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, program_headers, 0, 0, 64, 56, 2, 0, 0, 0
        )
        + PROGRAM_HEADER.pack(1, 4, 0, ADDRESS, ADDRESS, end, end, 0x1000)
        + PROGRAM_HEADER.pack(2, 4, dynamic, ADDRESS + dynamic, 0, len(dynamic_table), 0, 8)
        + string_table
        + symbol_table
        + relocation_table
        + dynamic_table
    )


@pytest.mark.parametrize(
    ("machine", "kind"), [(X86_64, 6), (X86_64, 7), (AARCH64, 1025), (AARCH64, 1026)]
)
def test_wanted_imports_give_their_slots_on_both_machines(machine, kind):
    library = make_elf(machine, kind, ("puts", "cblas_sgemm", "cblas_dgemm"))
    found = import_slots(library, lambda name: name.startswith("cblas"))
    assert found == {"cblas_sgemm": [0x5008], "cblas_dgemm": [0x5010]}


def test_other_relocations_and_functions_of_its_own_are_no_import_slots():
    assert import_slots(make_elf(kind=8), lambda name: True) == {}
    own = make_elf(defined=("cblas_sgemm",))
    assert import_slots(own, lambda name: True) == {"puts": [0x5008]}


def test_the_load_bias_converts_addresses_of_the_file_to_memory():
    assert load_bias(make_elf(), 0x7F0000010000, 0x1000) == 0x7F0000000000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a little-endian ELF-64 file"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), "not a little-endian ELF-64 file"),
        (b"\x7fELF\x01\x01" + bytes(60), "not a little-endian ELF-64 file"),
        (make_elf(machine=243), "e_machine 243 is neither x86-64 nor AArch64"),
        (make_elf()[:100], r"damaged or unknown ELF file \(error: "),
    ],
)
def test_an_unknown_layout_is_refused_with_its_reason(data, message):
    with pytest.raises(ElfError, match=f"^{message}"):
        import_slots(data, lambda name: True)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_without_other_errors(data):
    library = bytearray(make_elf())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(library) - 8))
        struct.pack_into("<Q", library, position, data.draw(st.integers(0, 2**64 - 1)))
    with contextlib.suppress(ElfError):
        import_slots(bytes(library), lambda name: True)
