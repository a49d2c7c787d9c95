"""Table rows to texts for small text encoders: a schema of column kinds, styles and templates,
statistics fitted on the training rows only, seeded augmentation and a token budget. NumPy only.
"""

from mlx_tabtext.augment import Augmentation
from mlx_tabtext.budget import BudgetReport
from mlx_tabtext.competitions import (
    COMPETITIONS,
    CompetitionTexts,
    competition_texts,
    guess_competition,
)
from mlx_tabtext.config import TextConfig
from mlx_tabtext.dates import date_values
from mlx_tabtext.files import TABLE_ENDINGS, read_table
from mlx_tabtext.infer import infer_schema
from mlx_tabtext.labels import humanize
from mlx_tabtext.numbers import find_number_format, is_infinite, parse_number
from mlx_tabtext.read import read_csv
from mlx_tabtext.schema import Column, Schema
from mlx_tabtext.table import Table, TableError, as_table
from mlx_tabtext.tabletext import TableText
from mlx_tabtext.unread import unread_cells
from mlx_tabtext.values import MISSING_WORDS, is_missing, numeric_values

__all__ = [
    "COMPETITIONS",
    "MISSING_WORDS",
    "TABLE_ENDINGS",
    "Augmentation",
    "BudgetReport",
    "Column",
    "CompetitionTexts",
    "Schema",
    "Table",
    "TableError",
    "TableText",
    "TextConfig",
    "as_table",
    "competition_texts",
    "date_values",
    "find_number_format",
    "guess_competition",
    "humanize",
    "infer_schema",
    "is_infinite",
    "is_missing",
    "numeric_values",
    "parse_number",
    "read_csv",
    "read_table",
    "unread_cells",
]
