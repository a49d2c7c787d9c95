"""What requests of chats may hold: messages, tools, and the form of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, WithJsonSchema, model_validator

from mlx_gpt.serve.schemas import (
    MOST_LOG_PROBABILITIES,
    Body,
    FieldError,
    GenerationBody,
    Int,
    unsupported,
)


def _check_content(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise ValueError('must be a text or a list of {"type": "text", "text": ...}')
        if part["type"] != "text":
            raise unsupported(f": a part of type {part['type'][:40]!r}, only text is")
        if not isinstance(part.get("text"), str):
            raise ValueError('must have a text in each {"type": "text", "text": ...}')
    return "".join(part["text"] for part in value)


Content = Annotated[
    StrictStr | None,
    BeforeValidator(_check_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}, {
        "type": "array", "items": {
            "type": "object", "required": ["type", "text"],
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        }}]}),
]  # fmt: skip


class FunctionCall(Body):
    """A call: the arguments are JSON in a text."""

    name: StrictStr
    arguments: StrictStr


class ToolCall(Body):
    """A call of a tool by the assistant."""

    id: StrictStr
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: StrictStr | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: StrictStr | None = None
    reasoning_content: StrictStr | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise FieldError("is missing", "content")
        if self.tool_calls and self.role != "assistant":
            raise FieldError("only messages of the assistant have them", "tool_calls")
        return self


class Function(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[StrictStr, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class Tool(Body):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """The name of a function."""

    name: StrictStr


class ToolChoice(Body):
    """The tool that the model must call."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Body):
    """A JSON schema and its name."""

    name: StrictStr
    description: StrictStr | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(Body):
    """The form of the answer; with `json_schema` it satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        has_schema = self.json_schema is not None and self.json_schema.schema_ is not None
        if (self.type == "json_schema") != has_schema:
            raise FieldError(
                "a schema goes with the type json_schema, and only with it", "json_schema"
            )
        return self


# OpenAI's fields that change an answer in ways this server cannot.
_UNSUPPORTED = ("audio", "function_call", "functions", "moderation", "prediction",
                "reasoning_effort", "verbosity", "web_search_options")  # fmt: skip


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=MOST_LOG_PROBABILITIES)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    chat_template_kwargs: dict[StrictStr, StrictBool | Int | StrictStr] | None = Field(
        None, description="Variables of the chat template, such as enable_thinking."
    )
    # Without effect on an answer.
    metadata: dict[StrictStr, StrictStr] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        for name in _UNSUPPORTED if isinstance(value, dict) else ():
            if value.get(name) is not None:
                raise unsupported(param=name)
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise FieldError("needs logprobs: true", "top_logprobs")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise FieldError("needs tools", "tool_choice")
        return self
