"""Make the parity fixture of mlx-gpt's chat templates with transformers' `apply_chat_template`.

Run in an environment with transformers and jinja2:

    python tools/make_fixtures_chat.py

fixtures/chat_templates.json has a small tokenizer, templates in the style of ChatML, Llama 3, Qwen3
(without thoughts of earlier turns) and of models with tools, written for this test, and for each
template and conversation the text, the ids, and the mask of the assistant's tokens (None where the
template has no `{% generation %}`). Made with transformers 5.23.0.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TARGET = Path(__file__).parents[1] / "packages/mlx-gpt/tests/fixtures/chat_templates.json"
SPECIALS = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>"]

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'Be brief.' %}
{%- endif %}
{{- '<|head|>system<|/head|>\\n\\n' + system + '<|eot|>' }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('only user and assistant, not ' + message.role) }}
    {%- endif %}
    {%- if loop.index0 > 8 %}{% break %}{% endif %}
    {{- '<|head|>' + message.role + '<|/head|>\\n\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content | trim + '<|eot|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|/head|>\\n\\n' }}
{%- endif %}
"""
QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in text %}
            {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
    {%- endif %}
    {{- text + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
# No white space is controlled by dashes.
SPACED = """\
{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'assistant' %}
  {{ message.role }}: {% generation %}
    {{ message.content }}{{ eos_token }}
    {% endgeneration %}
    {% else %}
{{ message.role }}: {{ message.content }}
    {% endif %}

{% endfor %}
"""
TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\nTools:' }}
    {%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {%- if message.content %}{{ message.content }}{% endif %}
            {%- for call in message.tool_calls or [] %}
                {{- '<call>' + call.function.name + ' ' }}
                {{- call.function.arguments | tojson(indent=1) }}
                {{- '</call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

CHAT = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "Capital of Japan, 日本?"},
    {"role": "assistant", "content": "Tōkyō, 東京."},
    {"role": "user", "content": "  And of <France> & 'Wales'?\n"},
    {"role": "assistant", "content": "Paris. Cardiff"},
]
THOUGHT = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "<think>\nadd\n</think>\n\ntwo"},
    {"role": "user", "content": "And 2 + 2?"},
    {"role": "assistant", "content": "<think>\nadd again\n</think>\n\nfour"},
]
CALLS = [
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function",
             "function": {"name": "weather", "arguments": {"city": "Köln", "<b>": [1, None]}}}
        ],
    },
    {"role": "tool", "content": "{\"sky\": \"grey\"}"},
    {"role": "assistant", "content": "Grey."},
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"city": {"type": "string"}, "a": "é<>&'"}},
}
CASES = [
    ("chatml", CHATML, CHAT, None, {}),
    ("chatml", CHATML, CHAT[:2], None, {}),
    ("llama3", LLAMA3, CHAT, None, {}),
    ("llama3", LLAMA3, CHAT[1:4], None, {}),
    ("qwen3", QWEN3, THOUGHT, None, {}),
    ("qwen3", QWEN3, THOUGHT[:3], None, {"enable_thinking": False}),
    ("spaced", SPACED, CHAT, None, {}),
    ("tools", TOOLS, CALLS, [TOOL], {}),
    ("tools", TOOLS, CALLS[:1], None, {}),
]


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([CHATML, json.dumps([CHAT, CALLS, THOUGHT])], trainer)
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in SPECIALS])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(str(path))
        theirs = PreTrainedTokenizerFast(
            tokenizer_file=str(path), bos_token="<|begin|>", eos_token="<|im_end|>"
        )
    cases = [case(theirs, *each) for each in CASES]
    content = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
    TARGET.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def case(theirs, name, template, messages, tools, variables) -> dict:
    options = {"tools": tools, "chat_template": template, **variables}
    prompted = messages[-1]["role"] != "assistant"
    options["add_generation_prompt"] = prompted
    tagged = "endgeneration" in template
    found = theirs.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=tagged, **options
    )
    return {
        "name": name,
        "template": template,
        "messages": messages,
        "tools": tools,
        "variables": variables,
        "add_generation_prompt": prompted,
        "text": theirs.apply_chat_template(messages, tokenize=False, **options),
        "ids": found["input_ids"],
        "mask": found["assistant_masks"] if tagged else None,
    }


if __name__ == "__main__":
    main()
