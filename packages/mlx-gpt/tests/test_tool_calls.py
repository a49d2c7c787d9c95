import json

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from mlx_gpt.serve.tool_calls import Tools, tool_format
from mlx_gpt.serve.tool_parser import FORMATS, ToolCallParser, join_calls
from mlx_gpt.tokenizer import PretrainedTokenizer

CITY = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rom", "Ulm"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
# The parts of Qwen 2.5's, Mistral 7B v0.3's and Llama 3.1's templates that concern tools.
TEMPLATES = {
    "hermes": (
        "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}\n{{ tool | tojson }}"
        "{% endfor %}\n</tools>\nAnswer with <tool_call>\n{\"name\": <function-name>, "
        "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for call in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", "
        "\"arguments\": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "mistral": (
        "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS] ["
        "{% for call in m.tool_calls %}{% if call.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs have 9 characters') }}{% endif %}"
        "{{ call.function | tojson }}{% endfor %}]{% else %}[INST] {{ m.content }}[/INST]"
        "{% endif %}{% endfor %}"
    ),
    "llama": (
        "{% if tools %}Respond in the format {\"name\": function name, \"parameters\": dictionary}."
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.content }}{% for call in m.tool_calls or [] %}"
        "{\"name\": \"{{ call.function.name }}\", \"parameters\": "
        "{{ call.function.arguments | tojson }}}{% endfor %}<|im_end|>{% endfor %}"
    ),
}  # fmt: skip
# What a model writes, and the calls in it.
ROME, NOW = '{"city": "Rom", "days": 2}', "{}"
ANSWERS = {
    "hermes": [
        f'<tool_call>\n{{"name": "weather", "arguments": {ROME}}}\n</tool_call>',
        '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ],
    "mistral": [
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ROME}, "id": "abc"}}',
        ', {"name": "now", "arguments": {}}]',
    ],
    "llama": [
        f'<|python_tag|>{{"name": "weather", "parameters": {ROME}}}',
        '; {"name": "now", "parameters": {}}',
    ],
}


def write_tokenizer(folder, form, specials=()):
    hub = HubTokenizer(models.BPE())
    hub.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hub.decoder = decoders.ByteLevel()
    names = ["<|im_end|>", "<|im_start|>", *specials]
    hub.train_from_iterator(ANSWERS["hermes"], trainers.BpeTrainer(
        vocab_size=300, special_tokens=names, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    hub.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": TEMPLATES.get(form, form)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return PretrainedTokenizer(folder)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    marks = {"mistral": ["[TOOL_CALLS]"], "llama": ["<|python_tag|>"]}
    found = {form: write_tokenizer(tmp_path_factory.mktemp(form), form, marks.get(form, ()))
             for form in TEMPLATES}  # fmt: skip
    marks = ["<tool_call>", "</tool_call>"]
    return found | {"hermes, special": write_tokenizer(tmp_path_factory.mktemp("special"), "hermes",
                                                       marks)}  # fmt: skip


def parse(form, text, size, names=("weather", "now")):
    """Parse an answer in pieces of so many characters; return its text, calls and deltas."""
    parser = ToolCallParser(FORMATS[form], names)
    parts = [part for i in range(0, len(text), size) for part in parser.add(text[i : i + size])]
    parts += parser.finish()
    deltas = [part for part in parts if not isinstance(part, str)]
    texts = [part for part in parts if isinstance(part, str)]
    assert "" not in texts
    return "".join(texts), join_calls(deltas), deltas


def functions(calls):
    return [(each["function"]["name"], each["function"]["arguments"]) for each in calls]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("form", FORMATS)
def test_calls_are_parsed_however_the_answer_is_split(form, size):
    text, calls, deltas = parse(form, "".join(ANSWERS[form]), size)
    assert text == ""
    assert functions(calls) == [("weather", ROME), ("now", NOW)]
    assert all(each["type"] == "function" for each in calls)
    assert len({each["id"] for each in calls}) == 2
    if form == "mistral":
        assert all(len(each["id"]) == 9 for each in calls)
    if size == 1:
        assert len(deltas) > 20  # arguments come as they are written
    rows = [each.row() for each in deltas]
    assert [row["index"] for row in rows if "id" in row] == [0, 1]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("form", ["hermes", "mistral"])
def test_text_before_calls_stays_without_its_white_space(form, size):
    text, calls, _ = parse(form, "I look <it> [up].\n\n" + ANSWERS[form][0] + "]", size)
    assert text == "I look <it> [up]." + ("]" if form == "hermes" else "")
    assert functions(calls) == [("weather", ROME)]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", "No call < here, <tool_ nor\n there. \n"),
        ("hermes", "<tool_call>\n{'name': 'weather'}\n</tool_call> after"),
        ("hermes", '<tool_call>{"name": "a\\x", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "now"}'),
        ("mistral", "[TOOL_CALLS] weather"),
        ("llama", ' {"city": "Rom"} is JSON'),
        ("llama", '{"name": "Bob", "parameters": {"age": 7}}'),
        ("llama", "<|python_tag|>weather.get('Rom')"),
        ("llama", "Text, then " + '{"name": "now", "parameters": {}}'),
        ("llama", "<|pyt"),
    ],
)
def test_what_is_no_call_stays_text(form, text, size):
    found, calls, _ = parse(form, text, size)
    assert (found.strip(), calls) == (text.strip(), [])


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_may_be_cut_anywhere(form):
    whole = "".join(ANSWERS[form])
    for end in range(len(whole)):
        text, calls, _ = parse(form, whole[:end], 1)
        assert len(calls) <= 2
        for (name, arguments), (wanted, complete) in zip(
            functions(calls), [("weather", ROME), ("now", NOW)], strict=False
        ):
            assert name == wanted
            assert complete.startswith(arguments)
        if not calls:
            assert text == whole[:end]


def test_keys_in_another_order_and_arguments_as_text_are_understood():
    body = json.dumps({"arguments": json.dumps({"city": "é"}), "id": 1, "name": "now"})
    text, calls, _ = parse("hermes", f"<tool_call>{body}</tool_call>", 1)
    assert (text, functions(calls)) == ("", [("now", '{"city": "é"}')])


@pytest.mark.parametrize("size", [1, 1000])
def test_brackets_and_marks_in_texts_end_nothing(size):
    arguments = json.dumps({"city": '} ] "]} </tool_call> \\'})
    for form, end in (("hermes", "</tool_call>"), ("mistral", "]")):
        mark = FORMATS[form].begin + ("[" if form == "mistral" else "")
        answer = f'{mark}{{"name": "now", "arguments": {arguments}}}{end}'
        text, calls, _ = parse(form, answer, size)
        assert (text, functions(calls)) == ("", [("now", arguments)])


def test_a_call_changes_the_finish_reason_unless_it_was_cut():
    parser = ToolCallParser(FORMATS["hermes"], ["now"])
    assert parser.finish_reason("stop") == "stop"
    parser.add(ANSWERS["hermes"][1])
    assert [parser.finish_reason(each) for each in ("stop", "length")] == ["tool_calls", "length"]


NAMED = {"type": "function", "function": {"name": "weather"}}


def answer(tokenizer, tools, seed):
    """Return the parts of an answer by random logits that like the ends of things."""
    random, mask, parser = np.random.default_rng(seed), tools.grammar(), tools.parser()
    parts, ids = [], []
    while len(ids) < 500:
        logits = random.normal(size=tokenizer.vocab_size)
        logits[list(tokenizer.end_ids)] += 2
        token = int(np.argmax(np.where(mask.allowed(), logits, -np.inf)))
        if token in tokenizer.end_ids:
            break
        mask.accept(token)
        ids.append(token)
    else:
        pytest.fail("the answer does not end")
    parts = [*parser.add(tokenizer.decode(ids)), *parser.finish()]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts), join_calls([part for part in parts if not isinstance(part, str)])


@pytest.mark.parametrize("form", ["hermes", "hermes, special", "mistral", "llama"])
def test_required_calls_are_made_and_valid(tokenizers, form):
    for choice, parallel in (("required", True), ("required", False), (NAMED, True)):
        tools, found = Tools(tokenizers[form], TOOLS, choice, parallel), []
        for seed in range(8):
            text, calls = answer(tokenizers[form], tools, seed)
            assert (text, bool(calls)) == ("", True)
            assert len(calls) == 1 or (parallel and choice is not NAMED)
            for name, arguments in functions(calls):
                jsonschema.validate(
                    json.loads(arguments), CITY if name == "weather" else {"const": {}}
                )
                found.append(name)
        assert set(found) == ({"weather"} if choice is NAMED else {"weather", "now"})


@pytest.mark.parametrize("form", ["hermes", "hermes, special", "mistral", "llama"])
def test_strict_functions_are_strict_where_the_model_chooses(tokenizers, form):
    function = {"name": "weather", "parameters": CITY, "strict": True}
    tokenizer, parts = tokenizers[form], form.partition(",")
    mask = Tools(tokenizer, [{"type": "function", "function": function}]).grammar()
    assert mask is not None
    if form != "llama":
        for token in tokenizer.encode("Hi"):
            mask.accept(token)
        assert mask.complete
    begin = ANSWERS[parts[0]][0].partition('weather"')[0].removeprefix("<|python_tag|>")
    for token in tokenizer.encode(begin, allow_special=True):
        mask.accept(token)
    with pytest.raises(ValueError, match="the grammar failed"):
        mask.accept(tokenizer.encode("7")[0])
    assert Tools(tokenizer, TOOLS).grammar() is None


@pytest.mark.parametrize("form", TEMPLATES)
def test_prompts_have_tools_calls_and_results(tokenizers, form):
    call = {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": "weather", "arguments": ROME},
    }
    messages = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "grey"},
    ]
    tokenizer = tokenizers[form]
    text = tokenizer.decode(Tools(tokenizer, TOOLS).prompt(messages))
    assert json.dumps(TOOLS[0]["function"]["parameters"]) in text
    assert '": {"city": "Rom", "days": 2}' in text  # an object, not text in quotes
    assert "grey" in text
    assert "<|im_start|>" not in text or text.count("assistant\n") in (0, 2)
    without = Tools(tokenizer, TOOLS, "none")
    assert "Ulm" not in tokenizer.decode(without.prompt(messages))
    assert without.parser() is without.grammar() is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages }}", "this model's chat template has no tools"),
        (
            "{{ tools }}<tool_call><function=name>",
            "the form of calls in this model's chat template",
        ),
        ("{{ tools }}[TOOL_CALLS]name[ARGS]{}", "none of those known here: hermes, mistral, llama"),
    ],
)
def test_models_that_cannot_call_tools_say_so(tmp_path, template, message):
    tokenizer = write_tokenizer(tmp_path, template)
    with pytest.raises(ValueError, match="chat template") as caught:
        Tools(tokenizer, TOOLS)
    assert message in str(caught.value)
    assert "read the calls from the text" in str(caught.value)
    assert Tools(tokenizer, TOOLS, "none").prompt([{"role": "user", "content": "Hi"}])


def test_nanochat_has_no_tools(tokenizer):
    with pytest.raises(ValueError, match="nanochat's models have no tools but their calculator"):
        tool_format(tokenizer)


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ([], "auto", "tools must not be empty"),
        ([{"type": "function"}], "auto", "tools[0] must be an object of type function"),
        ([*TOOLS, {"type": "web_search"}], "auto", "tools[2] must be an object of type function"),
        ([{"function": {"name": "a b"}}], "auto", "tools[0].function.name must be 1 to 64 letters"),
        ([TOOLS[0], TOOLS[0]], "auto", "tools[1]: there are two functions 'weather'"),
        ([{"function": {"name": "a", "parameters": {"type": "array"}}}], "auto",
         "tools[0].function.parameters must be a JSON schema of type object"),
        (TOOLS, "sometimes", "tool_choice must be none, auto, required or a function"),
        (TOOLS, {"type": "function"}, "tool_choice must be {"),
        (TOOLS, {"type": "function", "function": {"name": "wether"}}, "did you mean 'weather'?"),
    ],
)  # fmt: skip
def test_malformed_tools_are_refused(tokenizers, tools, choice, message):
    with pytest.raises(ValueError, match="tool") as caught:
        Tools(tokenizers["hermes"], tools, choice)
    assert message in str(caught.value)


def test_parameters_that_cannot_be_enforced_are_refused(tokenizers):
    wrong = {"function": {"name": "a", "parameters": {"type": "object", "not": {}}}}
    with pytest.raises(ValueError, match="parameters of 'a'") as caught:
        Tools(tokenizers["hermes"], [*TOOLS, wrong], "required").grammar()
    assert str(caught.value) == (
        "the parameters of 'a': the JSON schema is not supported: Unimplemented keys: [\"not\"]"
    )
    loose = {"function": {"name": "a", "strict": True, "parameters": {"type": "object"}}}
    with pytest.raises(ValueError, match="needs additionalProperties: false"):
        Tools(tokenizers["hermes"], [loose]).grammar()
