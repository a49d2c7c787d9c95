"""Excel workbooks to tables."""

import io
import logging
import zipfile
from typing import Any

from mlx_tabtext.content import recognize, refuse
from mlx_tabtext.read import column_names
from mlx_tabtext.records import table_of_columns
from mlx_tabtext.table import Table, TableError

_log = logging.getLogger(__name__)


def parse_workbook(label: str, raw: bytes) -> Table:
    """Read the first sheet; its first row that is not blank names the columns.

    Other sheets are named in a logged warning. Blank rows are skipped. Formulas give the values
    stored with them; one without is an error. Raises `TableError` with the sheet's row number.
    """
    if (recognize(raw) or ("",))[0] != "an Excel workbook":
        refuse(label, raw, "an Excel workbook")
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise TableError(
            f"{label}: an Excel workbook needs openpyxl; pip install 'mlx-tabtext[xlsx]'"
        ) from None
    try:
        values, formulas = (
            _first_sheet(label, load_workbook(io.BytesIO(raw), read_only=True, data_only=stored))
            for stored in (True, False)
        )
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{label}: damaged Excel workbook ({error}); save it again") from None
    rows = [(row, cells) for row, cells in enumerate(values, start=1) if any(map(_filled, cells))]
    _check_formulas(label, values, formulas)
    if not rows:
        raise TableError(f"{label}: the first sheet is empty; it should start with column names")
    (first, header), *body = rows
    width = max(at for _, cells in rows for at, cell in enumerate(cells, start=1) if _filled(cell))
    wide = max((at for at, cell in enumerate(header, start=1) if _filled(cell)), default=0)
    for row, cells in body:
        used = max(at for at, cell in enumerate(cells, start=1) if _filled(cell))
        if used > wide and width > wide:
            raise TableError(
                f"{label}: row {row}: {used} cells where the header in row {first} has {wide} "
                "columns; name every column in the first row"
            )
    names = column_names(label, first, ["" if n is None else str(n) for n in header[:wide]])
    cells = [[*cells, *[None] * wide][:wide] for _, cells in body]
    return table_of_columns(
        label,
        {name: [row[at] if _filled(row[at]) else None for row in cells]
         for at, name in enumerate(names)},
    )  # fmt: skip


def _first_sheet(label: str, book: Any) -> list[tuple]:
    sheet, *others = book.worksheets
    if others and not getattr(book, "data_only", False):
        names = ", ".join(repr(each.title) for each in others[:5])
        _log.warning("%s: read the first sheet, %r; not read: %s", label, sheet.title, names)
    sheet.reset_dimensions()  # the size that a file claims may be too small
    rows = list(sheet.iter_rows(values_only=True))
    book.close()
    return rows


def _check_formulas(label: str, values: list[tuple], formulas: list[tuple]) -> None:
    for row, (stored, written) in enumerate(zip(values, formulas, strict=True), start=1):
        for at, (value, formula) in enumerate(zip(stored, written, strict=True), start=1):
            if value is None and isinstance(formula, str) and formula.startswith("="):
                raise TableError(
                    f"{label}: row {row}, column {at}: the formula {formula[:40]!r} has no stored "
                    "value; open the file in a spreadsheet program and save it"
                )


def _filled(cell: object) -> bool:
    return cell is not None and cell != ""
