"""Chat templates of Hugging Face models: jinja2 in a sandbox, with the names that they expect.

The environment is that of transformers' `apply_chat_template`: `raise_exception`, `strftime_now`,
`tojson`, loop controls, and `{% generation %}`, which marks what the assistant says.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]

# For models without a template; ChatML needs its two markers in the vocabulary.
BUILT_IN = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
        "{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token or '' }}{% for message in messages %}"
        "{{ '### ' + message.role | capitalize + ':\\n' }}{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\\n\\n' }}"
        "{% else %}{{ message.content + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
    ),
}
_MARKS = "generation_marks"  # variable: the characters that enclose what the assistant says
_TAG = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# What the expressions of a template raise for messages that they do not expect.
_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError,
           ArithmeticError, RecursionError)  # fmt: skip


class ChatTemplate:
    """The templates of a model by name; `default` renders chats, `tool_use` those with tools.

    `source` is their file, for errors. `tokens` are variables such as `bos_token`. Raises
    `ValueError` with the line of a syntax error.
    """

    def __init__(
        self, templates: Mapping[str, str], source: str, tokens: Mapping[str, str] | None = None
    ):
        self.templates = dict(templates)
        self.source = source
        self._tokens = dict(tokens or {})
        environment = _environment()
        self._compiled = {
            name: _compile(environment, text, source) for name, text in templates.items()
        }

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, special tokens included.

        `variables` are passed to the template, as `enable_thinking=False`. Raises `ValueError` with
        the file, and the line if known, if the template fails or refuses the messages.
        """
        values = {**self._tokens, "documents": None, **variables}
        try:
            return self._compiled[self._name(tools)].render(
                messages=messages, tools=tools, add_generation_prompt=add_generation_prompt,
                **values,
            )  # fmt: skip
        except _ERRORS as error:
            place = f"{self.source}{_line(error)}"
            raise ValueError(f"{place}: the chat template failed: {_one_line(error)}") from error

    def render_marked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        marks: tuple[str, str],
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, with `marks` around each `{% generation %}` block."""
        return self.render(messages, tools, **{**variables, _MARKS: marks})

    def has_generation_tags(self, tools: Sequence[Mapping[str, Any]] | None = None) -> bool:
        """Whether the template marks what the assistant says."""
        return bool(_TAG.search(self.templates[self._name(tools)]))

    def _name(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        if tools and "tool_use" in self.templates:
            return "tool_use"
        if "default" not in self.templates:
            raise ValueError(
                f"{self.source}: no chat template named default, only {', '.join(self.templates)}"
            )
        return "default"


def read_chat_template(
    folder: Path, config: Mapping[str, Any], tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """Return the template of a model folder, None if it has none.

    `config` is its `tokenizer_config.json`. `chat_template.jinja` has precedence over that, and
    both over `chat_template.json`; `additional_chat_templates/NAME.jinja` add to them.
    """
    files = [(folder / "chat_template.jinja", "default")]
    files += [(path, path.stem) for path in
              sorted((folder / "additional_chat_templates").glob("*.jinja"))]  # fmt: skip
    found = {name: path.read_text("utf-8") for path, name in files if path.is_file()}
    source = folder / "tokenizer_config.json"
    if "default" in found:
        source = folder / "chat_template.jinja"
    else:
        value = config.get("chat_template")
        if value is None and (folder / "chat_template.json").is_file():
            source = folder / "chat_template.json"
            value = json.loads(source.read_text("utf-8")).get("chat_template")
        found = _by_name(value, str(source)) | found
    return ChatTemplate(found, str(source), tokens) if found else None


def choose_chat_template(text: str, tokens: Mapping[str, str]) -> ChatTemplate:
    """Return a built-in template (`chatml`, `plain`) by name, or that of a file."""
    if text in BUILT_IN:
        return ChatTemplate({"default": BUILT_IN[text]}, f"chat template {text}", tokens)
    path = Path(text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no chat template {text!r}: neither a file nor one of {', '.join(BUILT_IN)}"
        )
    return ChatTemplate({"default": path.read_text("utf-8")}, str(path), tokens)


class _GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}`: its content, between marks if wanted."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_enclose", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _enclose(self, context: Context, caller: Macro) -> str:
        begin, end = context.get(_MARKS) or ("", "")
        return f"{begin}{caller()}{end}"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    # jinja2's own filter escapes characters of HTML.
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


def _compile(environment: ImmutableSandboxedEnvironment, text: str, source: str) -> jinja2.Template:
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"{source}, line {error.lineno} of the chat template: {_one_line(error)}"
        ) from error


def _by_name(value: object, source: str) -> dict[str, str]:
    """Return the templates of a `chat_template` entry: a text, or a list of names and texts."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        templates = {each["name"]: each["template"] for each in value}  # type: ignore[attr-defined]
    except (TypeError, KeyError):
        templates = {}
    if not templates or not all(isinstance(each, str) for each in templates.values()):
        raise ValueError(
            f"{source}: chat_template must be text, or a list of objects with name and template"
        )
    return templates


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _line(error: BaseException) -> str:
    """Return ", line N of the chat template" for the innermost frame in it, "" if there is none."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line} of the chat template" if line else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
