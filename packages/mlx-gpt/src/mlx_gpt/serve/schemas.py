"""What requests may hold: OpenAI's fields, and a few of other servers; here those of texts.

Null means the default. What OpenAI has and this server does not is refused by name, and so is
every other field: nothing is ignored. A bool is not a number, and a number is not a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

MOST_LOG_PROBABILITIES = 20
_MOST_STOPS, _LONGEST_STOP = 4, 1000

Int = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]


class FieldError(ValueError):
    """A validator refuses a value: of `param`, if it checks the whole object."""

    def __init__(self, text: str, param: str = "", code: str | None = None):
        super().__init__(text)
        self.param, self.code = param, code


def unsupported(reason: str = "", param: str = "") -> FieldError:
    """Return the error of something that this server does not have."""
    return FieldError(f"is not supported{reason}", param, "unsupported_parameter")


class Body(BaseModel):
    """Refuses fields that it does not have, unless they are null."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, value: Any) -> Any:
        return (
            {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        )


def _check_stop(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if stops is None or stops == []:
        return None
    texts = isinstance(stops, list) and all(isinstance(each, str) and each for each in stops)
    if not texts or len(stops) > _MOST_STOPS or max(map(len, stops)) > _LONGEST_STOP:
        raise ValueError(
            f"must be a text or up to {_MOST_STOPS} texts, of 1 to {_LONGEST_STOP} characters each"
        )
    return stops


def _check_logit_bias(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError("must be an object of token ids and numbers from -100 to 100")
    for token, bias in value.items():
        if not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 16):
            raise ValueError(f"must have token ids as keys, got {str(token)[:20]!r}")
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not number or not -100 <= bias <= 100:
            raise ValueError(f"must have numbers from -100 to 100, got another value for {token}")
    return {int(token): float(bias) for token, bias in value.items()}


_TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
Stop = Annotated[
    list[str] | None,
    BeforeValidator(_check_stop),
    WithJsonSchema({"anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _LONGEST_STOP},
        _TEXTS | {"maxItems": _MOST_STOPS}, {"type": "null"},
    ]}),
]  # fmt: skip
LogitBias = Annotated[
    dict[int, float] | None,
    BeforeValidator(_check_logit_bias),
    WithJsonSchema({"anyOf": [{
        "type": "object", "propertyNames": {"pattern": "^[0-9]{1,15}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    }, {"type": "null"}]}),
]  # fmt: skip


class StreamOptions(Body):
    """`include_usage`: one more chunk, with the numbers of tokens."""

    include_usage: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationBody(Body):
    """What both kinds of completions have."""

    model: StrictStr | None = Field(None, description="The model, an adapter, or model:adapter.")
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    n: Annotated[Int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=0, lt=2**31)] | None = Field(None, description="0: all tokens.")
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias = None
    seed: Annotated[Int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop = None
    ignore_eos: StrictBool | None = Field(None, description="Generate all of max_tokens.")
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: StrictStr | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationBody:
        if self.stream_options and not self.stream:
            raise FieldError("needs stream: true", "stream_options")
        return self


def _check_prompt(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value) or _is_tokens(value):
            return value
        if all(isinstance(each, list) and each and _is_tokens(each) for each in value):
            return value
    raise ValueError(
        "must be a text, a list of texts, a list of token ids or a list of such lists, not empty"
    )


def _is_tokens(values: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each < 2**31 for each in values)


_TOKENS = {"type": "array", "minItems": 1,
           "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}}  # fmt: skip
Prompt = Annotated[
    Any,
    BeforeValidator(_check_prompt),
    WithJsonSchema({"anyOf": [
        {"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}, _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]}),
]  # fmt: skip


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Prompt
    logprobs: Annotated[Int, Field(ge=0, le=MOST_LOG_PROBABILITIES)] | None = None
    echo: StrictBool | None = None
    best_of: Annotated[Int, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_suffix(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("suffix") is not None:
            raise unsupported(param="suffix")
        return value
