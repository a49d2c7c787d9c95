"""Numbers for the head: fitted on train only, finite for any cell, the same after a round trip."""

import numpy as np
import pytest

from mlx_tabtext import RowFeatures, infer_schema
from mlx_tabtext.features import CLIP

TABLE = {
    "age": ["20", "30", "", "50", "40", "35"],
    "area": ["10", "20", "40", "80", "160", "100000"],
    "built": ["2001-01-01", "2002-06-15", "2003-01-01", "2004-03-01", "2005-01-09", "2006-02-02"],
    "kind": ["a", "b", "a", "b", "a", "b"],
    "y": ["0", "1", "0", "1", "0", "1"],
}


@pytest.fixture
def features():
    schema = infer_schema(TABLE, target="y", kinds={"built": "date"})
    return RowFeatures.fit(schema, TABLE)


def test_known_values_are_standardized_and_missing_ones_flagged(features):
    matrix = features.transform(TABLE)
    assert matrix.shape == (6, features.count)
    names = [scale.number.name for scale in features.scales]
    assert names.count("built") == 4  # year, month, weekday, days
    age, missing = matrix[:, 0], matrix[:, 1]
    np.testing.assert_allclose(age[[0, 1, 3, 4, 5]].mean(), 0, atol=1e-6)
    assert age[2] == 0
    assert missing.tolist() == [0, 0, 1, 0, 0, 0]


def test_a_skewed_column_is_logged(features):
    (area,) = [scale for scale in features.scales if scale.number.name == "area"]
    assert area.log


def test_wild_cells_stay_finite_and_clipped(features):
    wild = {name: ["1e300", "-1e300", "inf", "nan", "junk", ""] for name in TABLE}
    matrix = features.transform(wild)
    assert np.isfinite(matrix).all()
    assert np.abs(matrix).max() <= CLIP


def test_other_rows_do_not_change_what_was_fitted(features):
    first = {name: cells[:2] for name, cells in TABLE.items()}
    np.testing.assert_array_equal(features.transform(first), features.transform(TABLE)[:2])


def test_round_trip(features):
    again = RowFeatures.from_dict(features.to_dict())
    np.testing.assert_array_equal(again.transform(TABLE), features.transform(TABLE))


def test_frequent_categories_get_a_column_and_rare_ones_none():
    cells = ["a"] * 6 + [""] * 5 + ["rare"]
    table = {"kind": cells, "y": ["0", "1"] * 6}
    schema = infer_schema(table, target="y", kinds={"kind": "categorical"})
    features = RowFeatures.fit(schema, table)
    assert features.categories[0].values == ("a", "")
    assert features.transform(table).tolist() == [[1, 0]] * 6 + [[0, 1]] * 5 + [[0, 0]]
