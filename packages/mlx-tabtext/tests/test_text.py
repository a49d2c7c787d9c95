import json

import numpy as np
import pytest

from mlx_tabtext import Column, Schema, TableError, TableText, TextConfig, infer_schema

LABELS = {"Pclass": "ticket class", "Name": "name"}
TEMPLATE = "{Name} is {Sex}. Aged {Age}.\nCabin {Cabin}; alone: {Alone}. {{end}}"

GOLDEN = {
    "list": [
        "ticket class: 3; name: Braund, Mr. Owen Harris; sex: male; age: 22; fare: 7.25; alone: no",
        "ticket class: 1; name: Cumings, Mrs. John Bradley; sex: female; age: 38; fare: 71.28; "
        "cabin: C85; alone: no",
        "ticket class: 3; name: Heikkinen, Miss. Laina; sex: female; fare: 7.925; alone: yes",
    ],
    "sentence": [
        "The ticket class is 3. The name is Braund, Mr. Owen Harris. The sex is male. The age is "
        "22. The fare is 7.25. The alone is no.",
        "The ticket class is 1. The name is Cumings, Mrs. John Bradley. The sex is female. The age "
        "is 38. The fare is 71.28. The cabin is C85. The alone is no.",
        "The ticket class is 3. The name is Heikkinen, Miss. Laina. The sex is female. The fare is "
        "7.925. The alone is yes.",
    ],
    "great": [
        "ticket class is 3, name is Braund, Mr. Owen Harris, sex is male, age is 22, fare is 7.25, "
        "alone is no",
        "ticket class is 1, name is Cumings, Mrs. John Bradley, sex is female, age is 38, fare is "
        "71.28, cabin is C85, alone is no",
        "ticket class is 3, name is Heikkinen, Miss. Laina, sex is female, fare is 7.925, alone is "
        "yes",
    ],
    "json": [
        '{"ticket class": 3, "name": "Braund, Mr. Owen Harris", "sex": "male", "age": 22, "fare": '
        '7.25, "alone": "no"}',
        '{"ticket class": 1, "name": "Cumings, Mrs. John Bradley", "sex": "female", "age": 38, '
        '"fare": 71.28, "cabin": "C85", "alone": "no"}',
        '{"ticket class": 3, "name": "Heikkinen, Miss. Laina", "sex": "female", "fare": 7.925, '
        '"alone": "yes"}',
    ],
    "markdown": [
        "- ticket class: 3\n- name: Braund, Mr. Owen Harris\n- sex: male\n- age: 22\n- fare: 7.25\n"
        "- alone: no",
        "- ticket class: 1\n- name: Cumings, Mrs. John Bradley\n- sex: female\n- age: 38\n"
        "- fare: 71.28\n- cabin: C85\n- alone: no",
        "- ticket class: 3\n- name: Heikkinen, Miss. Laina\n- sex: female\n- fare: 7.925\n"
        "- alone: yes",
    ],
    "template": [
        "Braund, Mr. Owen Harris is male. Aged 22. alone: no. {end}",
        "Cumings, Mrs. John Bradley is female. Aged 38. Cabin C85; alone: no. {end}",
        "Heikkinen, Miss. Laina is female. alone: yes. {end}",
    ],
}


@pytest.fixture
def schema(passengers):
    kinds = {"Cabin": "text"}
    return infer_schema(passengers, target="Survived", labels=LABELS, kinds=kinds)


@pytest.fixture
def text_of(schema, passengers):
    def text_of(**options):
        options = {"order": "table", **options}
        return TableText(schema, TextConfig(**options)).fit(passengers)

    return text_of


@pytest.mark.parametrize("style", GOLDEN)
def test_each_style_reads_as_agreed(text_of, passengers, style):
    template = TEMPLATE if style == "template" else None
    text = text_of(style=style, template=template)
    assert text.transform(passengers) == GOLDEN[style]


@pytest.mark.parametrize("word", ["unknown", "missing"])
def test_missing_cells_can_be_written(text_of, passengers, word):
    text = text_of(missing=word, include=("Age", "Cabin"))
    assert text.transform(passengers)[2] == f"age: {word}; cabin: {word}"


def test_id_target_and_ignored_columns_are_never_in_a_text(text_of, passengers):
    for line in text_of(missing="unknown").transform(passengers):
        assert "passenger" not in line
        assert "survived" not in line


def test_transform_needs_no_target_and_no_extra_columns(text_of, passengers):
    text = text_of()
    rest = {
        name: passengers[name] for name in passengers if name not in ("Survived", "PassengerId")
    }
    assert text.transform(rest) == text.transform({**passengers, "new": [1, 2, 3]})


def test_no_rows_give_no_texts(text_of, passengers):
    empty = {name: [] for name in passengers}
    text = text_of()
    assert text.transform(empty) == []
    assert text.augment(empty, seed=0) == []
    assert text.transform_tta(empty, count=2) == [[], []]


def test_a_single_text_column_has_no_label():
    table = {"id": [1, 2], "text": ["it rains in Oslo", "the sun is out today"], "y": [0, 1]}
    schema = infer_schema(table, target="y")
    for style in ("list", "sentence", "great"):
        text = TableText(schema, TextConfig(style=style)).fit(table)
        assert text.transform(table) == table["text"]
    assert TableText(schema, TextConfig(style="json")).fit(table).transform(table)[0] == (
        '{"text": "it rains in Oslo"}'
    )


def test_value_labels_replace_codes_also_as_numbers_and_nulls():
    table = {"port": ["S", "C", "NA"], "class": [1.0, 3.0, 2.0], "pool": [None, "Ex", None]}
    value_labels = {
        "port": {"S": "Southampton", "NA": "none"},
        "class": {"1": "first", "3": "third"},
        "pool": {"Ex": "excellent", "": "no pool"},
    }
    text = TableText(infer_schema(table, value_labels=value_labels)).fit(table)
    assert text.transform(table) == [
        "port: Southampton; class: first; pool: no pool",
        "port: C; class: third; pool: excellent",
        "port: none; class: 2; pool: no pool",
    ]


def test_cells_of_another_kind_are_unchanged():
    schema = Schema(
        (
            Column("n", "numeric", "n"),
            Column("b", "boolean", "b"),
            Column("d", "date", "d", date_format="iso"),
        )
    )
    text = TableText(schema).fit({"n": [1, 2], "b": ["yes", "no"], "d": ["2012-03-14"] * 2})
    odd = {"n": ["many"], "b": ["maybe"], "d": ["in  May"]}
    assert text.transform(odd) == ["n: many; b: maybe; d: in May"]


def test_category_pieces_of_web_addresses_read_as_words():
    table = {"keyword": ["body%20bags", "fire"] * 3}
    assert TableText(infer_schema(table)).fit(table).transform(table)[0] == "keyword: body bags"


def test_equal_cells_of_different_types_are_told_apart():
    table = {"a": [1, True, 1.0, False, 0]}
    text = TableText(infer_schema(table, kinds={"a": "categorical"})).fit(table)
    assert text.transform(table) == ["a: 1", "a: yes", "a: 1", "a: no", "a: 0"]


def test_long_texts_can_be_limited_in_words():
    table = {"x": [1, 1, 2], "text": ["one two three four", "five six seven", "a b c d"]}
    text = TableText(infer_schema(table), TextConfig(max_text_words=2, order="table")).fit(table)
    assert text.transform(table)[0] == "x: 1; text: one two"


def test_state_survives_json(text_of, passengers, schema, count_words):
    text = text_of(numbers="value+bin", exclude=("Cabin",))
    text.fit(passengers, count_tokens=count_words, max_tokens=9)
    state = json.loads(json.dumps(text.to_dict()))
    again = TableText.from_dict(state, count_tokens=count_words)
    assert again.to_dict() == text.to_dict()
    assert again.transform(passengers) == text.transform(passengers)
    assert again.augment(passengers, seed=3) == text.augment(passengers, seed=3)
    with pytest.raises(ValueError, match=r"^this TableText has a budget of 9 tokens; pass count"):
        TableText.from_dict(state)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{Nane}", "no column 'Nane'; did you mean 'Name'?"),
        ("{Survived}", "column 'Survived' is target, not an input"),
        (
            "{Age:.2f}",
            "field 'Age' is followed by '.2f'; write {Age} alone, numbers are rounded by "
            "TextConfig(digits=...)",
        ),
        (
            "{Age",
            "expected '}' before end of string; write a column as {{Age}} and a brace as {{{{",
        ),
        ("Hello", "names no column; write one as {Age}"),
    ],
)
def test_bad_templates_are_named(text_of, template, message):
    with pytest.raises(TableError) as error:
        text_of(style="template", template=template)
    expected = f"template {template!r}{' ' if message.startswith('names') else ': '}{message}"
    assert str(error.value) == expected.replace("{{Age}}", "{Age}").replace("{{{{", "{{")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "lst"}, "unknown style 'lst'; did you mean 'list'?"),
        ({"missing": "skip"}, "unknown missing 'skip'; valid: omit, unknown, missing"),
        ({"style": "template"}, "style 'template' needs template='... {Column} ...'"),
        ({"template": "{Age}"}, "template is given but style is 'list'; use style='template'"),
        ({"digits": 0}, "digits must be at least 1, not 0"),
        ({"include": ["Agee"]}, "include: no input column 'Agee'; did you mean 'Age'?"),
        (
            {"include": ["Age"], "exclude": ["Age"]},
            "no input column remains; check include, exclude and the column kinds",
        ),
        (
            {"style": "template", "template": "{Age}", "exclude": ["Age"]},
            "the template names 'Age', which include or exclude removes",
        ),
    ],
)
def test_bad_options_are_named(text_of, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        text_of(**options)
    assert str(error.value) == message


def test_misuse_is_named(schema, passengers, text_of):
    with pytest.raises(
        ValueError, match=r"^this TableText is not fitted; call fit\(training_table\) first$"
    ):
        TableText(schema).transform(passengers)
    with pytest.raises(
        ValueError, match=r"^targets have shape \(2,\); need \(3,\) or \(3, targets\)$"
    ):
        TableText(schema).fit(passengers, np.zeros(2))
    with pytest.raises(
        ValueError, match=r"^give count_tokens and max_tokens together, or neither$"
    ):
        TableText(schema).fit(passengers, max_tokens=9)
    with pytest.raises(TableError) as error:
        text_of().transform({"Age": [1], "Sex": ["male"]})
    assert str(error.value) == (
        "the table does not have 5 of 7 input columns: Pclass, Name, Fare, Cabin, Alone; "
        "it has Age, Sex"
    )
    with pytest.raises(
        ValueError, match=r"^TextConfig has no option 'stile'; did you mean 'style'"
    ):
        TextConfig.from_dict({"stile": "list"})
