"""tf-idf of words, beside scikit-learn's."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from mlx_tabtext import WordFeatures, infer_schema
from mlx_tabtext.words import MIN_ROWS

TEXTS = [
    "Mr. Smith, first class",
    "Mrs. Smith sailed first class, first of all",
    "",
    "a child of the third class",
    "Mr. Jones of the third class",
    "Miss Jones, of the FIRST class",
] * 3


@pytest.fixture
def schema():
    return infer_schema({"note": TEXTS, "y": ["0", "1"] * 9}, target="y", kinds={"note": "text"})


def matrix(features: WordFeatures, texts: list[str]) -> csr_array:
    values, columns, starts = features.transform({"note": texts})
    return csr_array((values, columns, starts), shape=(len(texts), len(features.words)))


def test_words_weigh_what_scikit_learn_says(schema):
    found = WordFeatures.fit(schema, {"note": TEXTS})
    theirs = TfidfVectorizer(sublinear_tf=True, min_df=MIN_ROWS, token_pattern=r"\w+").fit(TEXTS)
    assert list(found.words) == list(theirs.get_feature_names_out())
    others = [*TEXTS, "class class class, a word never seen", "nothing known"]
    ours, reference = matrix(found, others), theirs.transform(others)
    np.testing.assert_allclose(ours.toarray(), reference.toarray(), atol=1e-6)
    again = WordFeatures.from_dict(found.to_dict())
    assert (matrix(again, others) != ours).nnz == 0


def test_rare_words_and_tables_without_text_give_no_columns(schema):
    assert "sailed" in WordFeatures.fit(schema, {"note": TEXTS}).words
    assert "sailed" not in WordFeatures.fit(schema, {"note": TEXTS[:6]}).words
    numbers = infer_schema({"n": ["1", "2", "3"], "y": ["0", "1", "0"]}, target="y")
    assert WordFeatures.fit(numbers, {"n": ["1", "2", "3"]}).words == ()
