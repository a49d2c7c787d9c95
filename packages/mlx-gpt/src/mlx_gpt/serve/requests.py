"""Translate the bodies of requests to what the scheduler generates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.serve.chat_schemas import ChatBody, Message
from mlx_gpt.serve.errors import ApiError, unsupported
from mlx_gpt.serve.generation import Generate
from mlx_gpt.serve.names import Choice, ServedNames
from mlx_gpt.serve.schemas import CompletionBody, GenerationBody
from mlx_gpt.serve.settings import ServeSettings
from mlx_gpt.tokenizer import AnyTokenizer, PretrainedTokenizer, encode_prompt

if TYPE_CHECKING:
    from mlx_gpt.serve.grammar import Grammar
    from mlx_gpt.serve.scheduler import Scheduler
    from mlx_gpt.serve.tool_calls import Tools
    from mlx_gpt.serve.tool_parser import ToolCallParser

_COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions
_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# Arguments of the functions that a template's variables pass through.
_RESERVED = {"self", "tokenizer", "messages", "tools", "marks", "add_generation_prompt"}


@dataclass(frozen=True)
class Served:
    """What all requests share: the scheduler, the names, and the sampling of the model's author."""

    scheduler: Scheduler
    settings: ServeSettings
    names: ServedNames
    sampling: Mapping[str, Any]

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer of the model."""
        return self.scheduler.tokenizer


@dataclass(frozen=True)
class Asked:
    """A request in the scheduler's terms: `n` answers to each prompt, one prompt after another."""

    body: GenerationBody
    choice: Choice
    generates: Sequence[Generate]
    n: int
    param: str
    """The field with the prompt."""
    make_parser: Callable[[], ToolCallParser | None] = lambda: None
    """Makes a reader of the calls of tools in an answer."""


def read_chat(served: Served, body: ChatBody) -> Asked:
    """Return what a chat asks for. This encodes its text: call it outside the event loop."""
    choice = served.names.find(body.model)
    messages = [_template_message(each, i) for i, each in enumerate(body.messages)]
    tools = _read_tools(served.tokenizer, body) if body.tools else None
    prompt = _encode_chat(served.tokenizer, body, messages, tools)
    top = (body.top_logprobs or 0) if body.logprobs else None
    field = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    most = _max_tokens(served, getattr(body, field), field)
    grammar = _read_grammar(served.tokenizer, body, tools)
    asked = _asked(served, body, choice, [prompt], "messages", most, top, grammar)
    return replace(asked, make_parser=tools.parser) if tools else asked


def read_completion(served: Served, body: CompletionBody) -> Asked:
    """Return what a completion asks for. This encodes its text: call it outside the event loop."""
    choice = served.names.find(body.model)
    if body.best_of not in (None, body.n or 1):
        raise unsupported("best_of", "best_of other than n")
    if body.echo and body.logprobs is not None:
        raise unsupported("echo", "echo with logprobs")
    several = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    prompts = body.prompt if several else [body.prompt]
    ids = [_encode_prompt(served.tokenizer, each) for each in prompts]
    most = _max_tokens(served, body.max_tokens, "max_tokens", _COMPLETION_TOKENS)
    return _asked(served, body, choice, ids, "prompt", most, body.logprobs)


def _max_tokens(served: Served, wanted: int | None, field: str, default: int | None = None) -> int:
    """Return the most tokens of an answer; without a default those of the settings, or all."""
    limit = served.settings.answers.max_tokens or served.scheduler.context_length
    if served.settings.answers.max_tokens and wanted and wanted > limit:
        raise ApiError(400, f"{field} is at most {limit} here, got {wanted}", param=field)
    return min(limit, wanted or default or limit)


def _asked(
    served: Served,
    body: GenerationBody,
    choice: Choice,
    prompts: Sequence[Sequence[int]],
    param: str,
    max_tokens: int,
    top: int | None,
    grammar: Grammar | None = None,
) -> Asked:
    limits, n = served.settings.answers, body.n or 1
    most = min(limits.max_choices, served.settings.engine.max_queue)
    if n * len(prompts) > most:
        text = f"{n} answers to {len(prompts)} prompts are more than the {most} of a request"
        raise ApiError(400, text, param="n" if n > 1 else param)
    sampling = _sampling(served, body)
    generate = partial(
        Generate,
        max_tokens=max_tokens,
        stop=tuple(body.stop or ()),
        top_log_probabilities=top,
        adapter=choice.adapter,
        seconds=limits.seconds,
        end_ids=frozenset() if body.ignore_eos else None,
    )
    generates = [
        generate(tuple(prompt), sampling=_with_seed(sampling, i),
                 grammar=grammar.copy() if grammar else None)
        for prompt in prompts
        for i in range(n)
    ]  # fmt: skip
    return Asked(body, choice, generates, n, param)


def _sampling(served: Served, body: GenerationBody) -> Sampling:
    size = served.tokenizer.vocab_size
    if unknown := [token for token in body.logit_bias or () if token >= size]:
        text = f"logit_bias has the id {unknown[0]}, but there are {size} tokens"
        raise ApiError(400, text, param="logit_bias")
    given = {name: getattr(body, name) for name in _DEFAULTED}
    return Sampling(
        **{**served.sampling, **{k: v for k, v in given.items() if v is not None}},
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        seed=None if body.seed is None else body.seed % 2**64,
    )


def _with_seed(sampling: Sampling, number: int) -> Sampling:
    """Return the sampling of the answer with this number, which has a seed of its own."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % 2**64)


def _read_tools(tokenizer: AnyTokenizer, body: ChatBody) -> Tools:
    from mlx_gpt.serve.tool_calls import Tools  # llguidance is loaded when it is needed

    choice = body.tool_choice or "auto"
    choice = choice if isinstance(choice, str) else choice.model_dump()
    tools = [each.model_dump(exclude_none=True) for each in body.tools or ()]
    try:
        return Tools(tokenizer, tools, choice, body.parallel_tool_calls is not False)
    except ValueError as error:
        param = "tool_choice" if str(error).startswith("tool_choice") else "tools"
        raise ApiError(400, str(error), param=param) from None


def _read_grammar(tokenizer: AnyTokenizer, body: ChatBody, tools: Tools | None) -> Grammar | None:
    """Return what the answer's form must be: of `response_format`, or of calls of tools."""
    form, param = body.response_format, "response_format"
    if form is not None and form.type != "text" and tools and body.tool_choice != "none":
        raise unsupported(param, "a response_format together with tools")
    try:
        if form is not None and form.type != "text":
            from mlx_gpt.serve.grammar import response_grammar

            return response_grammar(tokenizer, form.model_dump(by_alias=True, exclude_none=True))
        param = "tools"
        return tools.grammar() if tools else None
    except ValueError as error:
        raise ApiError(400, str(error), param=param) from None


def _encode_prompt(tokenizer: AnyTokenizer, prompt: str | list[int]) -> Sequence[int]:
    if isinstance(prompt, list):
        return prompt
    try:
        return tokenizer.prompt_ids(prompt)
    except ValueError as error:
        raise ApiError(400, _without_paths(tokenizer, str(error)), param="prompt") from None


def _encode_chat(
    tokenizer: AnyTokenizer, body: ChatBody, messages: Sequence[dict[str, Any]], tools: Tools | None
) -> Sequence[int]:
    variables: dict[str, Any] = body.chat_template_kwargs or {}
    if clash := sorted(_RESERVED & variables.keys()):
        text = f"chat_template_kwargs cannot set {clash[0]}"
        raise ApiError(400, text, param="chat_template_kwargs")
    try:
        if tools:
            return tools.prompt(messages, **variables)
        if isinstance(tokenizer, PretrainedTokenizer):
            return encode_prompt(tokenizer, messages, **variables)
        if variables:
            raise unsupported("chat_template_kwargs", "a variable of this model's format of chats")
        if messages[-1]["role"] == "assistant":
            raise ValueError("the last message must be the user's, for the model to answer")
        return render_for_completion(tokenizer, {"messages": messages})
    except ValueError as error:
        raise ApiError(400, _without_paths(tokenizer, str(error)), param="messages") from None


def _template_message(message: Message, number: int) -> dict[str, Any]:
    """Return a message as chat templates expect it: arguments of calls are objects."""
    found = message.model_dump(exclude_none=True, exclude={"annotations"})
    found["role"] = "system" if message.role == "developer" else message.role
    found.setdefault("content", "")
    for i, call in enumerate(found.get("tool_calls", [])):
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            place = f"messages[{number}].tool_calls[{i}].function.arguments"
            raise ApiError(400, f"{place}: expected a JSON object in a text", param=place)
        call["function"]["arguments"] = arguments
    return found


def _without_paths(tokenizer: AnyTokenizer, text: str) -> str:
    """Return an error without folders of this machine."""
    template = getattr(tokenizer, "chat_template", None)
    for source in (getattr(template, "source", ""), getattr(tokenizer, "source", "")):
        text = text.replace(source, Path(source).name) if source else text
    return text
