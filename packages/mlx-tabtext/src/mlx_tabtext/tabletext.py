"""Serialize rows as texts: fit on the training rows, then transform any table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.augment import Augmentation, draw, jitter, limit_dropout
from mlx_tabtext.budget import BudgetReport, CountTokens, TokenBudget, row_pieces
from mlx_tabtext.importance import encode_targets
from mlx_tabtext.schema import Column, Schema
from mlx_tabtext.segments import FormattedTable, column_segments, template_segments
from mlx_tabtext.serialize import DELIMITERS, TextConfig
from mlx_tabtext.statistics import Statistics
from mlx_tabtext.table import Table, TableError, check_table
from mlx_tabtext.templates import Sentence, parse_template

_FORMAT = 2


class TableText:
    """Serialize table rows for a text encoder.

    `fit` on training rows, then `transform` any table with the same columns. `report` is the
    `BudgetReport` of the last `transform`, `augment` or `transform_tta`.
    """

    def __init__(self, schema: Schema, config: TextConfig | None = None) -> None:
        self.schema = schema
        self.config = config or TextConfig()
        self.columns = _used_columns(schema, self.config)
        self._template: tuple[Sentence, ...] = ()
        if self.config.template is not None:
            self._template = parse_template(self.config.template, schema)
            self.columns = _named_columns(self._template, self.columns)
        self.report = BudgetReport()
        self._statistics: Statistics | None = None
        self._budget: TokenBudget | None = None

    @property
    def statistics(self) -> Statistics:
        """The statistics learned by `fit`; `ValueError` before it."""
        if self._statistics is None:
            raise ValueError("this TableText is not fitted; call fit(training_table) first")
        return self._statistics

    def fit(
        self,
        table: Table,
        target: Sequence[object] | np.ndarray | None = None,
        *,
        count_tokens: CountTokens | None = None,
        max_tokens: int | None = None,
    ) -> "TableText":
        """Learn the column ranking and the statistics of numbers from training rows.

        `target`, (rows,) or (rows, targets), is for column importance; the default is the target
        columns of the schema in `table`. Without a target the ranking is the table order, free
        text first. `max_tokens` limits each text as counted by `count_tokens(texts)`.
        """
        rows = check_table(table)
        if rows == 0:
            raise TableError("no rows to fit on; the table has only a header")
        if (count_tokens is None) != (max_tokens is None):
            raise ValueError("give count_tokens and max_tokens together, or neither")
        self._check_columns(table)
        if target is None and self.schema.targets and all(t in table for t in self.schema.targets):
            target = np.array([table[name] for name in self.schema.targets], dtype=object).T
        codes = None if target is None else encode_targets(target, rows)
        self._statistics = Statistics.fit(table, self.columns, codes)
        self._budget = None
        if count_tokens is not None and max_tokens is not None:
            self._budget = TokenBudget(count_tokens, max_tokens)
        return self

    def transform(self, table: Table) -> list[str]:
        """Return one text per row. The text of a row does not depend on other rows."""
        rows = check_table(table)
        orders = np.tile(self._print_order(), (rows, 1))
        texts, self.report = self._texts(table, self.config.style, orders)
        return texts

    def augment(
        self,
        table: Table,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
        first_row: int = 0,
    ) -> list[str]:
        """Return one randomly changed text per row, for training only.

        Row `i` depends on `seed`, its cells and `first_row + i`. For a chunk of a table, pass the
        position of its first row to get the same texts as for the whole table.
        """
        augmentation = augmentation or Augmentation()
        styles = augmentation.styles or (self.config.style,)
        if "template" in styles and self.config.template is None:
            raise ValueError("styles has 'template', but this TableText has no template")
        rows, columns = check_table(table), self._ranked()
        self._check_columns(table)
        statistics = self.statistics
        draws = draw(rows, len(columns), seed, first_row, augmentation.shuffle_columns)
        table = jitter(table, columns, statistics.numbers, draws.noise, augmentation.numeric_jitter)
        drawn = draws.drop < augmentation.drop_column
        dropped = limit_dropout(table, columns, statistics.free_text, drawn)
        orders = np.argsort(draws.order, axis=1)
        orders[~draws.shuffled] = self._print_order()
        chosen = (draws.style * len(styles)).astype(int)
        texts, self.report = [""] * rows, BudgetReport()
        for number, style in enumerate(styles):
            mine = np.flatnonzero(chosen == number)
            part = {c.name: [table[c.name][row] for row in mine] for c in columns}
            styled, report = self._texts(part, style, orders[mine], dropped[mine])
            self.report += report
            for row, text in zip(mine, styled, strict=True):
                texts[row] = text
        return texts

    def transform_tta(self, table: Table, *, count: int, seed: int = 0) -> list[list[str]]:
        """Return `count` lists of texts for test-time augmentation: average their predictions.

        The first is `transform(table)`. The others have random column orders, each one for all
        rows. Templates have a fixed order, so all their lists are equal.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        rows, generator = check_table(table), np.random.default_rng(seed)
        lists, total = [], BudgetReport()
        for number in range(count):
            order = generator.permutation(len(self.columns)) if number else self._print_order()
            texts, report = self._texts(table, self.config.style, np.tile(order, (rows, 1)))
            lists.append(texts)
            total += report
        self.report = total
        return lists

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form of everything except the token counter."""
        return {
            "format": _FORMAT,
            "schema": self.schema.to_dict(),
            "config": self.config.to_dict(),
            "statistics": asdict(self.statistics),
            "max_tokens": self._budget.max_tokens if self._budget else None,
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, count_tokens: CountTokens | None = None
    ) -> "TableText":
        """Rebuild from `to_dict`; `count_tokens` is needed if there was a token budget."""
        if values.get("format") != _FORMAT:
            raise ValueError(f"TableText format {values.get('format')!r} is not {_FORMAT}")
        text = cls(Schema.from_dict(values["schema"]), TextConfig.from_dict(values["config"]))
        text._statistics = Statistics.from_dict(values["statistics"])
        if values["max_tokens"] is not None:
            if count_tokens is None:
                raise ValueError(
                    f"this TableText has a budget of {values['max_tokens']} tokens; "
                    "pass count_tokens"
                )
            text._budget = TokenBudget(count_tokens, values["max_tokens"])
        return text

    def _ranked(self) -> list[Column]:
        """The columns, most important first."""
        return [self.schema[name] for name in self.statistics.ranking]

    def _print_order(self) -> np.ndarray:
        """The column order of the text, as positions in `_ranked()`."""
        if self.config.order == "importance":
            return np.arange(len(self.columns))
        place = {column.name: at for at, column in enumerate(self.columns)}
        return np.argsort([place[name] for name in self.statistics.ranking])

    def _texts(
        self, table: Table, style: str, orders: np.ndarray, dropped: np.ndarray | None = None
    ) -> tuple[list[str], BudgetReport]:
        """Return the texts in one style; `orders` and `dropped` are (rows, columns by rank)."""
        self._check_columns(table)
        columns, statistics = self._ranked(), self.statistics
        formatted = FormattedTable(table, columns, statistics.numbers, self.config, dropped)
        if style == "template":
            segments, order = template_segments(self._template, columns, formatted, len(orders))
            orders = np.tile(order, (len(orders), 1))
        else:
            segments = column_segments(style, columns, formatted, statistics.free_text)
        delimiters, report = DELIMITERS[style], BudgetReport(rows=len(orders))
        if self._budget is not None and len(orders):
            report = self._budget.trim(segments, delimiters, orders)
        pieces = (row_pieces(segments, row, order) for row, order in enumerate(orders))
        return [delimiters.join(each) for each in pieces], report

    def _check_columns(self, table: Table) -> None:
        missing = [column.name for column in self.columns if column.name not in table]
        if missing:
            raise TableError(
                f"the table does not have {len(missing)} of {len(self.columns)} input columns: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; "
                f"it has {', '.join(list(table)[:10])}"
            )


def _used_columns(schema: Schema, config: TextConfig) -> tuple[Column, ...]:
    features = {column.name: column for column in schema.features}
    for option, names in (("include", config.include or ()), ("exclude", config.exclude)):
        for name in names:
            if name not in features:
                raise TableError(
                    f"{option}: no input column {name!r}{did_you_mean(name, features)}"
                )
    chosen = features if config.include is None else config.include
    columns = tuple(
        c for c in features.values() if c.name in chosen and c.name not in config.exclude
    )
    if not columns:
        raise TableError("no input column remains; check include, exclude and the column kinds")
    return columns


def _named_columns(
    template: tuple[Sentence, ...], columns: tuple[Column, ...]
) -> tuple[Column, ...]:
    named = {name for sentence in template for name in sentence.names}
    left = named - {column.name for column in columns}
    if left:
        raise TableError(f"the template names {min(left)!r}, which include or exclude removes")
    return tuple(column for column in columns if column.name in named)
