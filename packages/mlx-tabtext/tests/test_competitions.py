import pytest

from mlx_tabtext import (
    COMPETITIONS,
    TableError,
    TableText,
    TextConfig,
    competition_texts,
    guess_competition,
    infer_schema,
)


@pytest.mark.parametrize("name", COMPETITIONS)
def test_entries_fit_their_own_columns(name):
    texts = competition_texts(name)
    table = {column: ["a", "b"] for column in texts.labels}
    assert guess_competition([*table, "some id"]) == name
    schema = infer_schema(table, labels=texts.labels, words=texts.words, kinds=texts.kinds)
    text = TableText(schema, TextConfig(style="template", template=texts.template)).fit(table)
    assert all(line for line in text.transform(table))


def test_house_prices_names_all_79_columns():
    texts = competition_texts("house-prices")
    assert len(texts.labels) == 79
    assert len(set(texts.labels.values())) == 79
    assert set(texts.words) <= set(texts.labels)


def test_unknown_columns_and_names():
    assert guess_competition(["a", "b"]) is None
    with pytest.raises(TableError) as error:
        competition_texts("titanik")
    assert str(error.value) == "no texts for competition 'titanik'; did you mean 'titanic'?"
