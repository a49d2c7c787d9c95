"""Calls of tools: what a chat template supports, the prompt with tools, and how calls are forced.

A model writes calls as its chat template shows them. Known are the forms of Hermes and Qwen
(`<tool_call>{"name": ..., "arguments": ...}</tool_call>`), of Mistral (`[TOOL_CALLS] [{...}]`) and
of Llama 3 (`{"name": ..., "parameters": ...}` as the whole answer).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gpt.data.messages import check_messages
from mlx_gpt.data.rendering import render_prompt
from mlx_gpt.serve import grammar
from mlx_gpt.serve.tool_parser import FORMATS, ToolCallParser, ToolFormat
from mlx_gpt.tokenizer import AnyTokenizer, Tokenizer
from mlx_trainer import did_you_mean

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
# Forms with the marks of a known one, but other text between: Qwen3-Coder, GLM, newer Mistrals.
_OTHER_FORMS = ("<function=", "<arg_key>", "[ARGS]")


class Tools:
    """The tools of a request, checked against the model.

    `choice` is OpenAI's `tool_choice`: "none" leaves the tools out of the prompt, "auto" lets the
    model choose, "required" and a named function force calls. Without `parallel` there is at most
    one call. Raises `ValueError` for tools that are malformed or that the model does not support.
    """

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        tools: Sequence[Mapping[str, Any]],
        choice: str | Mapping[str, Any] = "auto",
        parallel: bool = True,
    ):
        self._tokenizer, self._tools, self._parallel = tokenizer, list(tools), parallel
        self._functions = check_tools(tools)
        self._wanted = _chosen(choice, list(self._functions))
        self._choice = choice if isinstance(choice, str) else "required"
        if isinstance(choice, Mapping):
            self._parallel = False
        # Without calls there is no form of them to know.
        self._format = tool_format(tokenizer) if self._choice != "none" else None

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the ids after which the assistant answers; `variables` are for the template."""
        shown = self._tools if self._format else None
        return render_prompt(self._tokenizer, check_messages(messages), shown, **variables)

    def parser(self) -> ToolCallParser | None:
        """Return a parser for one answer, None if it may call no tool."""
        return ToolCallParser(self._format, self._wanted) if self._format else None

    def grammar(self) -> grammar.Grammar | None:
        """Return the grammar that answers must follow, None for any text.

        "auto" needs one only if a function is `strict` or calls may not be parallel.
        """
        strict = any(self._functions[name].get("strict") for name in self._wanted)
        if not self._format or (self._choice == "auto" and self._parallel and not strict):
            return None
        for name in self._wanted:
            self._check_parameters(name)
        return grammar.lark(self._tokenizer, self._lark(self._format), "the tools' parameters")

    def _check_parameters(self, name: str) -> None:
        """Raise the error of one function, which that of the whole grammar would not name."""
        schema = _parameters(self._functions[name])
        try:
            grammar.json_schema(self._tokenizer, schema)
            if self._functions[name].get("strict"):
                grammar.check_strict(schema)
        except ValueError as error:
            raise ValueError(f"the parameters of {name!r}: {error}") from None

    def _lark(self, form: ToolFormat) -> str:
        """Return the grammar of an answer.

        In llguidance's Lark `<[7]>` is the token 7, and a lazy rule ends as early as it can.
        """
        calls = []
        for name in self._wanted:
            begin = _quote(f'{{"name": "{name}", "{form.arguments}": ')
            schema = grammar.schema_text(_parameters(self._functions[name]))
            calls.append(f'{begin} %json {schema} "}}"')
        lines = ["call: " + "\n    | ".join(calls)]
        if form.name == "llama":
            lines += ["start: call" + ("" if self._choice == "required" else " | TEXT"),
                      r"TEXT: /[^{\s][\s\S]*/"]  # fmt: skip
            return "\n".join(lines)
        begin, end = self._mark(form.begin), self._mark(form.end)
        if form.name == "hermes":
            body = rf'"\n" call "\n" {end}'
            body += rf' ("\n" {begin} {body})*' if self._parallel else ""
        else:
            body = '/ ?/ "[" call' + (' (", " call)*' if self._parallel else "") + f" {end}"
        if self._choice == "required":
            return "\n".join([*lines, f"start: {begin} {body}"])
        lazy = "" if begin.startswith("<[") else "[lazy]"
        lines += [f"lead{lazy}: TEXT {begin}", f"start: TEXT | lead {body}", r"TEXT: /[\s\S]*/"]
        return "\n".join(lines)

    def _mark(self, text: str) -> str:
        """Return a mark in Lark: a special token by its id, else its text."""
        try:
            return f"<[{self._tokenizer.special(text)}]>"
        except KeyError:
            return _quote(text)


def tool_format(tokenizer: AnyTokenizer) -> ToolFormat:
    """Return how a model calls tools; `ValueError` if it cannot, or in a form unknown here."""
    if isinstance(tokenizer, Tokenizer):
        raise ValueError("nanochat's models have no tools but their calculator")
    template = tokenizer.chat_template
    templates = template.templates if template else {}
    text = templates.get("tool_use", templates.get("default", ""))
    if not re.search(r"\btools\b", text):
        raise ValueError(
            "this model's chat template has no tools; describe them in a message instead, and read "
            "the calls from the text"
        )
    if not any(each in text for each in _OTHER_FORMS):
        if "[TOOL_CALLS]" in text:
            return FORMATS["mistral"]
        if "<tool_call>" in text:
            return FORMATS["hermes"]
        if re.search(r'\\?"parameters\\?": ', text):
            return FORMATS["llama"]
    raise ValueError(
        "the form of calls in this model's chat template is none of those known here: "
        f"{', '.join(FORMATS)}; describe the tools in a message instead, and read the calls from "
        "the text"
    )


def check_tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the functions by name; `ValueError` with the number of a malformed tool."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            raise ValueError(f"tools[{number}] must be an object of type function with a function")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"tools[{number}].function.name must be 1 to 64 letters, digits, _, . or -, "
                f"got {json.dumps(name)[:80]}"
            )
        if name in found:
            raise ValueError(f"tools[{number}]: there are two functions {name!r}")
        schema = function.get("parameters") or {}
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            raise ValueError(
                f"tools[{number}].function.parameters must be a JSON schema of type object"
            )
        found[name] = function
    if not found:
        raise ValueError("tools must not be empty")
    return found


def _chosen(choice: str | Mapping[str, Any], names: list[str]) -> list[str]:
    """Return the names that may be called."""
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise ValueError(
                f"tool_choice must be none, auto, required or a function, got {choice!r}"
            )
        return names
    function = choice.get("function") if choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(
            'tool_choice must be {"type": "function", "function": {"name": ...}} to name a function'
        )
    if name not in names:
        raise ValueError(f"tool_choice: no function {name!r} in tools{did_you_mean(name, names)}")
    return [name]


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of the arguments; without one a function has none."""
    nothing = {"properties": {}, "additionalProperties": False}
    return {"type": "object", **(function.get("parameters") or nothing)}


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
