from mlx_tabtext import (
    TableText,
    TextConfig,
    guess_competition,
    infer_schema,
    load_data_dictionary,
    read_csv,
)


def fit(folder, count_words, name, train, target, **options):
    table = read_csv(folder / name / train)
    known = guess_competition(table)
    names = {}
    if known:
        found = load_data_dictionary(known)
        names = {"labels": found.labels, "value_labels": found.value_labels, "kinds": found.kinds}
    schema = infer_schema(table, target=target, **names)
    text = TableText(schema, TextConfig(**options))
    return table, text.fit(table, count_tokens=count_words, max_tokens=64)


def test_titanic(data_folder, count_words):
    table, text = fit(data_folder, count_words, "titanic", "train.csv", "Survived")
    kinds = {column.name: column.kind for column in text.schema.columns}
    assert kinds == {
        "PassengerId": "id",
        "Survived": "target",
        **dict.fromkeys(["Pclass", "Age", "SibSp", "Parch", "Fare"], "numeric"),
        **dict.fromkeys(["Name", "Ticket", "Cabin"], "text"),
        **dict.fromkeys(["Sex", "Embarked"], "categorical"),
    }
    assert set(text.statistics.ranking[:4]) == {"Name", "Sex", "Fare", "Pclass"}
    test = read_csv(data_folder / "titanic" / "test.csv")
    assert len(text.transform(test)) == 418
    assert text.transform(table)[0].startswith(
        "name: Braund, Mr. Owen Harris; sex: male; fare: 7.25"
    )


def test_house_prices_fit_any_row_into_64_words(data_folder, count_words):
    table, text = fit(data_folder, count_words, "house-prices", "train.csv", "SalePrice")
    assert len(text.columns) == 79
    assert text.statistics.ranking[0] == "OverallQual"
    lines = text.transform(table)
    assert max(count_words(lines)) <= 64
    assert lines[0].startswith("overall quality: 7 (good); neighborhood: College Creek")


def test_disaster_tweets_keep_the_tweet_first(data_folder, count_words):
    table, text = fit(data_folder, count_words, "nlp-disaster", "train.csv", "target")
    assert text.statistics.ranking[0] == "text"
    assert len(text.transform(table)) == 7613
    assert text.transform(table)[0].startswith("tweet: Our Deeds are the Reason")


def test_the_missing_marks_of_adult_are_left_out(data_folder, count_words):
    table, text = fit(data_folder, count_words, "adult", "train.csv", "income")
    assert "?" in table["occupation"]
    assert not any("?" in line for line in text.transform(table))
    assert text.statistics.ranking[0] in ("relationship", "marital-status")
