import math
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tabtext import MISSING_VALUES, date_values, humanize, is_missing, numeric_values
from mlx_tabtext.dates import find_date_format, format_date, parse_date
from mlx_tabtext.formatting import format_number


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (22, "22"),
        (22.0, "22"),
        ("22.50", "22.5"),
        ("+7", "7"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (1e-9, "0.000000001"),
        (1e12, "1000000000000"),
        (71.2833, "71.28"),
        (1234567.8, "1234568"),
        (99999.96, "100000"),
        (0.00123456, "0.001235"),
        (-3.14159, "-3.142"),
        (2.5e20, "2.5e+20"),
        (12345678901234567890, "12345678901234567890"),
    ],
)
def test_numbers_are_formatted_as_plain_digits(number, expected):
    assert format_number(number, 4) == expected


@given(st.floats(1e-8, 1e14) | st.floats(-1e14, -1e-8), st.integers(1, 15))
def test_formatted_numbers_are_right_to_their_digits(number, digits):
    expected = format_number(number, digits)
    assert "e" not in expected
    # half a unit in the last of `digits` places, at most 5 * 10**-digits of the number
    assert float(expected) == pytest.approx(number, rel=5.001 * 10**-digits, abs=0)


def test_missing_values_are_missing_and_none_is_a_category():
    assert all(is_missing(word.upper()) and is_missing(f" {word} ") for word in MISSING_VALUES)
    assert all(is_missing(cell) for cell in (None, math.nan, math.inf, -math.inf))
    assert not any(is_missing(cell) for cell in ("None", "no", 0, False, 0.0, "nano", date.max))


def test_numeric_values_are_nan_where_there_is_no_number():
    cells = ["1", " 2.5 ", True, "no", None, "NA", "1,234", "1_000", "inf", "1e400", 10**400, "x"]
    expected = [1, 2.5, 1, 0] + [math.nan] * 8
    np.testing.assert_array_equal(numeric_values({"a": cells}, "a"), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2012-03-14", "14 March 2012, Wednesday"),
        ("2012-03-14T13:05:00Z", "14 March 2012, Wednesday, 13:05"),
        ("2012-03-14 13:05:07.5", "14 March 2012, Wednesday, 13:05:07"),
        ("2012/03/14", "14 March 2012, Wednesday"),
        ("14.03.2012", "14 March 2012, Wednesday"),
        ("03/14/2012", "14 March 2012, Wednesday"),
        ("14/03/2012", "14 March 2012, Wednesday"),
        ("03/04/2012", "4 March 2012, Sunday"),
        ("March 14, 2012", "14 March 2012, Wednesday"),
        ("14-Mar-12", "14 March 2012, Wednesday"),
        ("2012-03", "March 2012"),
    ],
)
def test_common_dates_are_formatted(text, expected):
    date_format = find_date_format([text])
    assert format_date(parse_date(text, date_format), date_format) == expected


@pytest.mark.parametrize("text", ["2012-13-45", "tomorrow", "12", "1.5", "2012", "10-K", "3/4"])
def test_other_texts_are_no_dates(text):
    assert find_date_format([text]) is None


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_date_values_agree_with_numpy(when):
    table = {"when": [when.isoformat(), None, "soon"]}
    stamp = np.datetime64(when.replace(microsecond=0))
    days = (stamp - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    months = stamp.astype("datetime64[M]").astype(int)
    expected = {
        "year": 1970 + months // 12,
        "month": months % 12 + 1,
        "weekday": (math.floor(days) + 3) % 7,  # 1 January 1970 was a Thursday
        "days": days,
    }
    for part, value in expected.items():
        found = date_values(table, "when", part, date_format="iso")
        assert found[0] == pytest.approx(value, abs=1.2e-5)  # a day holds 86400 seconds
        assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("SibSp", "sib sp"),
        ("bill_length_mm", "bill length mm"),
        ("YearBuilt", "year built"),
        ("1stFlrSF", "1st flr sf"),
        ("3SsnPorch", "3 ssn porch"),
        ("MSSubClass", "ms sub class"),
        ("hours-per-week", "hours per week"),
        ("Condition1", "condition 1"),
        ("PassengerId", "passenger id"),
        ("pH", "ph"),
        ("x1", "x1"),
        ("größe", "größe"),
        ("___", "___"),
    ],
)
def test_names_become_labels(name, label):
    assert humanize(name) == label
