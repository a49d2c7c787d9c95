"""Ordered grades, recognized by their words, as numbers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mlx_tabtext import Column, Schema, Table, is_missing

# Lowest first; `/` separates spellings of one grade. A column may use a part of a scale.
SCALES = (
    "very poor/po-,poor/po/bad,fair/fa,average/typical/ta/av/okay,good/gd,very good,"
    "excellent/ex/great,outstanding",
    "fair,good,very good,premium,ideal",
    "i3,i2,i1,si2,si1,vs2,vs1,vvs2,vvs1,if,fl",
    "none/no,minimal/mn/minimum,average/av,good/gd",
    "none/no,very low,low/lo,medium/med/moderate/mid/normal/average,high/hi,very high,extreme",
    "none/no,mild/gentle/gtl/minor/slight,moderate/mod,severe/sev/major",
    "xxs,xs,s,m,l,xl,xxl,xxxl",
    "tiny/extra small,small,medium,large,extra large/huge",
    "never,rarely/seldom,sometimes/occasionally,often/frequently/usually,very often,always",
    "strongly disagree,disagree,neutral/neither agree nor disagree/undecided,agree,strongly agree",
    "very dissatisfied,dissatisfied,neutral,satisfied,very satisfied",
    "no formal education/none/preschool,primary school/primary/elementary/1st 4th,5th 6th,7th 8th,"
    "9th,10th,11th,secondary/some high school/12th,high school/hs grad/high school graduate,"
    "some college,associate/assoc voc/associate degree,assoc acdm,"
    "bachelor/bachelors/bachelor degree/undergraduate/graduation/graduate,"
    "master/masters/master degree/post graduate,prof school/professional,doctorate/phd/doctoral",
    "unfinished/unf,roughly finished/rfn,finished/fin",
    "unf/unfinished,lwq/low quality,rec/recreation room,blq,alq,glq",
    "freshman,sophomore,junior,senior",
    "beginner/novice,intermediate,advanced,expert",
    "junior,middle/mid,senior,lead,principal",
    "bronze,silver,gold,platinum,diamond",
    "cold,cool,mild,warm,hot",
    "baby/infant,child,teen/teenager,young/young adult,adult/middle aged,old/senior/elderly",
    "bad,neutral/mixed,good",
    "negative,neutral,positive",
    "slow,medium,fast",
    "light,medium,heavy",
    "short,medium,long",
    "first,second,third,fourth,fifth,sixth",
    "january/jan,february/feb,march/mar,april/apr,may,june/jun,july/jul,august/aug,"
    "september/sep/sept,october/oct,november/nov,december/dec",
    "monday/mon,tuesday/tue,wednesday/wed,thursday/thu,friday/fri,saturday/sat,sunday/sun",
)
MIN_GRADES, MAX_GRADES = 3, 40
# Share of the filled cells that must be on the scale.
ON_SCALE = 0.95
_WORD = re.compile(r"[^\W_]+")
_FIRST_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Grade:
    """The place of each cell on an ordered scale."""

    name: str
    label: str
    column: str
    grades: dict[str, float]
    kind: str = "numeric"

    def transform(self, table: Table) -> list[Any]:
        """Return numbers, `None` for missing cells and for words that are not on the scale."""
        return [
            None if is_missing(cell) else self.grades.get(str(cell).strip())
            for cell in table[self.column]
        ]


def find_grades(schema: Schema, table: Table) -> list[Grade]:
    """Return the grades of each categorical column whose words, or their labels, are a scale."""
    found = []
    for column in schema.features:
        if column.kind == "categorical":
            filled = [str(cell).strip() for cell in table[column.name] if not is_missing(cell)]
            grades = _grades(column, filled)
            if grades:
                name, label = f"{column.name} grade", f"{column.label} grade"
                found.append(Grade(name, label, column.name, grades))
    return found


def _grades(column: Column, filled: list[str]) -> dict[str, float]:
    distinct = sorted(set(filled))
    if not MIN_GRADES <= len(distinct) <= MAX_GRADES:
        return {}
    labels = [column.value_labels.get(cell, cell) for cell in distinct]
    for words in (distinct, labels):
        for scale in _SCALES:
            grades = {
                cell: scale[key]
                for cell, word in zip(distinct, words, strict=True)
                if (key := _normalize(word)) in scale
            }
            covered = sum(cell in grades for cell in filled)
            if covered >= ON_SCALE * len(filled) and len(set(grades.values())) >= MIN_GRADES:
                return grades
    return _letters(distinct) or _first_numbers(distinct)


def _letters(distinct: Sequence[str]) -> dict[str, float]:
    """Return places of consecutive letters of the alphabet, as D, E, F, G."""
    if not all(len(cell) == 1 and cell.isascii() and cell.isalpha() for cell in distinct):
        return {}
    codes = sorted(ord(cell.upper()) for cell in distinct)
    if len(codes) <= MIN_GRADES or any(after != before + 1 for before, after in pairwise(codes)):
        return {}
    return {cell: float(ord(cell.upper()) - codes[0]) for cell in distinct}


def _first_numbers(distinct: Sequence[str]) -> dict[str, float]:
    """Return the first number of bands such as `18-25` or `10+ years`, if each has its own."""
    numbers = {}
    for cell in distinct:
        found = _FIRST_NUMBER.search(cell)
        if found is None or cell.isdigit():
            return {}
        below = cell.lstrip().startswith("<") or cell.casefold().startswith(("under", "less"))
        numbers[cell] = float(found[0]) - 0.5 * below
    shapes = {"".join(filter(str.isalpha, cell)).casefold().rstrip("s") for cell in distinct}
    return numbers if len(set(numbers.values())) == len(distinct) > len(shapes) else {}


def _normalize(word: str) -> str:
    return " ".join(_WORD.findall(str(word).casefold().replace("'s", "")))


def _scale(text: str) -> dict[str, float]:
    levels: Iterable[list[str]] = (level.split("/") for level in text.split(","))
    return {word: float(place) for place, level in enumerate(levels) for word in level}


_SCALES = tuple(map(_scale, SCALES))
