"""Serialize table rows for small text encoders: schema, styles and templates, statistics of the
training rows, seeded augmentation and a token budget. Needs no MLX.
"""

from mlx_tabtext.augment import Augmentation
from mlx_tabtext.budget import BudgetReport
from mlx_tabtext.competitions import (
    COMPETITIONS,
    DataDictionary,
    guess_competition,
    load_data_dictionary,
)
from mlx_tabtext.dates import date_values
from mlx_tabtext.features import Number, RowFeatures, numbers_of
from mlx_tabtext.files import TABLE_ENDINGS, read_csv, read_table
from mlx_tabtext.formatting import find_invalid_cells
from mlx_tabtext.infer import infer_schema
from mlx_tabtext.numbers import find_number_format, is_infinite, numeric_values, parse_number
from mlx_tabtext.schema import Column, Schema, humanize
from mlx_tabtext.serialize import TextConfig
from mlx_tabtext.table import MISSING_VALUES, Table, TableError, as_table, is_missing
from mlx_tabtext.tabletext import TableText
from mlx_tabtext.words import WordFeatures

__all__ = [
    "COMPETITIONS",
    "MISSING_VALUES",
    "TABLE_ENDINGS",
    "Augmentation",
    "BudgetReport",
    "Column",
    "DataDictionary",
    "Number",
    "RowFeatures",
    "Schema",
    "Table",
    "TableError",
    "TableText",
    "TextConfig",
    "WordFeatures",
    "as_table",
    "date_values",
    "find_invalid_cells",
    "find_number_format",
    "guess_competition",
    "humanize",
    "infer_schema",
    "is_infinite",
    "is_missing",
    "load_data_dictionary",
    "numbers_of",
    "numeric_values",
    "parse_number",
    "read_csv",
    "read_table",
]
