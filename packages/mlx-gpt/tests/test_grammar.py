import json

import jsonschema
import numpy as np
import pytest

from mlx_gpt.serve import grammar
from mlx_gpt.tokenizer import PretrainedTokenizer

POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": -5, "maximum": 5},
        "name": {"enum": ["é", "b"]},
    },
    "required": ["x", "name"],
    "additionalProperties": False,
}
SCHEMAS = {
    "point": POINT,
    "points": {"type": "array", "items": POINT, "maxItems": 2},
    "either": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[ab]{2}$"}, POINT]},
    "tree": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def hub_tokenizer(llama_folder):
    return PretrainedTokenizer(llama_folder)


@pytest.fixture(scope="module")
def spaced_tokenizer(tmp_path_factory):
    """In the style of SentencePiece: a space before the text, bytes as `<0xE2>`."""
    pieces = ["<unk>", "</s>", *(f"<0x{each:02X}>" for each in range(256)), "\u2581", "\u2581{",
              '{"', '"x"', '":', "\u2581name", *map(chr, range(0x21, 0x7F))]  # fmt: skip
    layout = {
        "version": "1.0",
        "added_tokens": [
            {"id": 1, "content": "</s>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                          "split": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>",
                  "merges": ["\u2581 {"],
                  "vocab": {piece: number for number, piece in enumerate(pieces)}},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("spaced")
    (folder / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return PretrainedTokenizer(folder)


@pytest.fixture(params=["nanochat", "byte-level", "SentencePiece"])
def any_tokenizer(request, tokenizer, hub_tokenizer, spaced_tokenizer):
    found = {"nanochat": tokenizer, "byte-level": hub_tokenizer, "SentencePiece": spaced_tokenizer}
    return found[request.param]


def sample(tokenizer, mask, seed, limit=400):
    """Return the text of an answer by random logits, and whether it ended."""
    random, ids = np.random.default_rng(seed), []
    while len(ids) < limit:
        allowed = mask.allowed()
        assert allowed.shape == (tokenizer.vocab_size,)
        assert allowed.dtype == bool
        ends = sorted(tokenizer.end_ids)
        assert allowed[ends].tolist() == [mask.complete] * len(ends)
        assert not mask.ended or set(np.flatnonzero(allowed)) == set(ends)
        logits = random.normal(size=tokenizer.vocab_size)
        logits[ends] += 3
        token = int(np.argmax(np.where(allowed, logits, -np.inf)))
        if token in tokenizer.end_ids:
            return tokenizer.decode_bytes(ids).decode(), True
        mask.accept(token)
        ids.append(token)
    return tokenizer.decode_bytes(ids).decode("utf-8", "replace"), False


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_that_ends_is_valid_under_its_schema(any_tokenizer, name):
    start = grammar.json_schema(any_tokenizer, SCHEMAS[name])
    ended = 0
    for seed in range(20):
        text, is_whole = sample(any_tokenizer, start.copy(), seed)
        if is_whole:
            jsonschema.validate(json.loads(text), SCHEMAS[name])
            ended += 1
        else:
            with pytest.raises(ValueError, match="line 1"):
                json.loads(text)
    assert ended >= 15


def test_answers_in_json_mode_are_objects(any_tokenizer):
    for seed in range(20):
        text, is_whole = sample(any_tokenizer, grammar.json_object(any_tokenizer), seed)
        assert text.lstrip().startswith("{")
        assert not is_whole or isinstance(json.loads(text), dict)


def test_white_space_ends(any_tokenizer):
    mask = grammar.json_object(any_tokenizer)
    mask.accept(int(np.flatnonzero(mask.allowed())[0]))  # { or what begins with it
    spaces = 0
    while spaces < 30 and (
        found := [int(each) for each in np.flatnonzero(mask.allowed())
                  if any_tokenizer.decode_bytes([int(each)]).isspace()]
    ):  # fmt: skip
        mask.accept(found[0])
        spaces += 1
    assert 1 <= spaces <= 20


def test_text_that_is_forced_is_encoded_as_the_tokenizer_would(any_tokenizer):
    text = '{"x": "name"}'
    mask = grammar.lark(any_tokenizer, f"start: {json.dumps(text)}")
    ids = []
    while not mask.ended:
        allowed = np.flatnonzero(mask.allowed())
        assert len(allowed) == 1
        ids.append(int(allowed[0]))
        mask.accept(ids[-1])
    assert any_tokenizer.decode_bytes(ids).decode() == text
    spaced = any_tokenizer.encode(text)  # in SentencePiece's style the first token has a space
    assert any_tokenizer.decode_bytes(spaced[:1]) in (b"{", b'{"', b" {")
    assert (len(ids), ids[1:]) == (len(spaced), spaced[1:])


def test_a_copy_has_its_own_state(tokenizer):
    mask = grammar.regex(tokenizer, "ab")
    mask.allowed()
    other = mask.copy()
    mask.accept(tokenizer.encode("a")[0])
    assert other.allowed()[tokenizer.encode("a")[0]]
    assert not mask.allowed()[tokenizer.encode("a")[0]]


def test_a_token_that_is_not_allowed_is_an_error(tokenizer):
    mask = grammar.json_object(tokenizer)
    with pytest.raises(ValueError, match=r"the grammar failed: .*token"):
        mask.accept(tokenizer.encode("1")[0])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "the JSON schema is not supported: Invalid type: objekt"),
        ({"not": {}, "x-guidance": {"lenient": True}},
         'the JSON schema is not supported: Unimplemented keys: ["not"]'),
        ({"enum": []}, "the JSON schema is not supported: Unsatisfiable schema: anyOf is empty"),
        ({"type": "string", "pattern": "("},
         "the JSON schema is not supported: regex parse error: ( ^ error: unclosed group"),
        ({"$ref": "#"}, "the JSON schema cannot be satisfied: no token can begin it"),
        ({"$ref": "file:///etc/passwd"}, "the JSON schema is not supported: Resource "
         "'file:///etc/passwd' is not present in a registry and retrieving it failed: Default "
         "retriever does not fetch resources"),
    ],
)  # fmt: skip
def test_a_bad_schema_is_one_line(tokenizer, schema, message):
    with pytest.raises(ValueError, match="the JSON schema") as caught:
        grammar.json_schema(tokenizer, schema)
    assert str(caught.value) == message


def test_a_schema_as_deep_as_a_stack_is_an_error(tokenizer):
    for depth in (200, 100_000):
        schema = {"type": "string"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        with pytest.raises(ValueError, match=r"nested too deeply|recursion limit"):
            grammar.json_schema(tokenizer, schema)


def test_response_formats_are_those_of_openai(tokenizer):
    def find(**value):
        return grammar.response_grammar(tokenizer, value)

    assert find(type="text") is None
    assert find(type="json_object") is not None
    assert find(type="json_schema", json_schema={"name": "p", "schema": POINT, "strict": True})
    loose = {**POINT, "required": ["x"]}
    assert find(type="json_schema", json_schema={"name": "p", "schema": loose})
    for value, message in [
        ({"type": "xml"}, "response_format.type must be text, json_object or json_schema"),
        ({"type": "json_schema"}, "response_format.json_schema.schema must be an object"),
        ({"type": "json_schema", "json_schema": {"schema": loose, "strict": True}},
         "schema: a strict schema must require name too"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMAS["points"], "strict": True}},
         "a strict schema must have type object at the top"),
        ({"type": "json_schema", "json_schema": {"strict": True, "schema": {
            **POINT, "properties": {"x": {"type": "object"}}, "required": ["x"]}}},
         "schema.properties.x: a strict schema needs additionalProperties: false"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"response_format|strict") as caught:
            find(**value)
        assert message in str(caught.value)


def test_a_vocabulary_without_all_bytes_is_refused(write_pretrained, tmp_path):
    tokenizer = PretrainedTokenizer(write_pretrained(tmp_path))
    assert b"{" in [tokenizer.decode_bytes([each]) for each in range(100)]
    layout = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    layout["model"]["vocab"]["curly"] = layout["model"]["vocab"].pop("{")
    layout["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(ValueError, match=r"no token for 1 bytes, as b'\{'"):
        grammar.json_object(PretrainedTokenizer(tmp_path))


def test_tokenizers_are_prepared_once(hub_tokenizer):
    grammar.json_object(hub_tokenizer)
    before = grammar._environment.cache_info().misses
    grammar.json_schema(hub_tokenizer, POINT)
    assert grammar._environment.cache_info().misses == before
