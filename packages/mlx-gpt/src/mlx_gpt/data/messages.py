"""Check the messages of a conversation, and bring them into one form.

A message has a `role` and a `content`. Here content is text; OpenAI's lists of
`{"type": "text", "text": ...}` are joined. Calls of tools are OpenAI's, with their arguments as an
object. Other keys, as `name` or `reasoning_content`, are kept for chat templates. Parts that only
nanochat has (`python`, `python_output`) stay a list.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_trainer import did_you_mean

ROLES = ("system", "user", "assistant", "tool")
# Names of roles in ShareGPT files.
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "function_call": "assistant",
    "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_SHAREGPT_KEYS = ("from", "role", "value", "content")
_NANOCHAT_PARTS = ("text", "python", "python_output")


def check_messages(value: object, key: str = "messages") -> list[dict[str, Any]]:
    """Return the messages in the form of this module; `ValueError` with the number of a bad one."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{key} must be a list of messages that is not empty, got {_show(value)}")
    messages = [
        _check_message(each, f"message {i} of {len(value)}") for i, each in enumerate(value, 1)
    ]
    system = [i for i, each in enumerate(messages, 1) if each["role"] == "system"]
    if system and system != [1]:
        where = f"message {system[-1]} of {len(messages)}"
        what = "a second system message" if len(system) > 1 else "a system message"
        raise ValueError(f"{where}: {what}; there may be one, and it comes first")
    return messages


def from_sharegpt(value: object, key: str = "conversations") -> list[dict[str, Any]]:
    """Return the messages of a ShareGPT list of `from` and `value`."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{key} must be a list of turns that is not empty, got {_show(value)}")
    messages = []
    for number, turn in enumerate(value, 1):
        where = f"message {number} of {len(value)}"
        if not isinstance(turn, Mapping):
            raise ValueError(f"{where}: expected an object with from and value, got {_show(turn)}")
        name, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(name, str) or name.lower() not in _SHAREGPT_ROLES:
            hint = did_you_mean(str(name), _SHAREGPT_ROLES)
            raise ValueError(f"{where}: unknown role {name!r}{hint}")
        others = {key: each for key, each in turn.items() if key not in _SHAREGPT_KEYS}
        message = {**others, "role": _SHAREGPT_ROLES[name.lower()], "content": content}
        if name.lower() == "function_call":
            call = _parse_json(content, f"{where}: a function_call")
            message |= {"content": "", "tool_calls": call if isinstance(call, list) else [call]}
        messages.append(message)
    return check_messages(messages, key)


def parse_tools(value: object) -> list[dict[str, Any]] | None:
    """Return the tools of a row: a list of objects, or that list as a text of JSON."""
    if value is None or value == "" or value == []:
        return None
    tools = _parse_json(value, "tools") if isinstance(value, str) else value
    if not isinstance(tools, list) or not all(isinstance(each, Mapping) for each in tools):
        raise ValueError(f"tools must be a list of objects, got {_show(tools)}")
    return [dict(each) for each in tools] or None


def _check_message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message:
        raise ValueError(f"{where}: expected an object with role and content, got {_show(message)}")
    role = message["role"]
    if role not in ROLES:
        raise ValueError(f"{where}: unknown role {role!r}{did_you_mean(str(role), ROLES)}")
    if message.get("weight") not in (None, 1):
        # OpenAI's way to leave a turn out of the loss.
        raise ValueError(
            f"{where}: weights are not supported; remove them, and choose the turns by --mask"
        )
    calls = message.get("tool_calls")
    found = {key: value for key, value in message.items() if key != "tool_calls"}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise ValueError(f"{where}: tool_calls must be a list in a message of the assistant")
        found["tool_calls"] = [_check_call(call, where) for call in calls]
    found["content"] = _check_content(message.get("content"), role, bool(calls), where)
    return found


def _check_content(
    content: object, role: str, has_calls: bool, where: str
) -> str | list[dict[str, str]]:
    if content is None and has_calls:
        return ""
    if isinstance(content, list):
        content = _join_parts(content, role, where)
    if not isinstance(content, str):
        if isinstance(content, list):
            return content
        raise ValueError(f"{where}: the content of {role!r} must be text, got {_show(content)}")
    if role == "assistant" and not content.strip() and not has_calls:
        raise ValueError(f"{where}: the content of 'assistant' is empty")
    return content


def _join_parts(parts: Sequence[object], role: str, where: str) -> str | list[dict[str, str]]:
    for number, part in enumerate(parts, 1):
        place = f"{where}, part {number}"
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise ValueError(f"{place}: expected an object with type and text, got {_show(part)}")
        known = _NANOCHAT_PARTS if role == "assistant" else ("text",)
        if part["type"] not in known:
            raise ValueError(f"{place}: the type {part['type']!r} is not supported, only text")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{place}: text must be text, got {_show(part.get('text'))}")
    if all(part["type"] == "text" for part in parts):  # type: ignore[index]
        return "".join(part["text"] for part in parts)  # type: ignore[index]
    return [dict(part) for part in parts]  # type: ignore[call-overload]


def _check_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where}: a tool call needs a name and arguments, got {_show(call)}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parse_json(arguments or "{}", f"{where}: the arguments of a tool call")
    if not isinstance(arguments, Mapping):
        raise ValueError(
            f"{where}: the arguments of a tool call must be an object, got {_show(arguments)}"
        )
    assert isinstance(call, Mapping)
    others = {key: value for key, value in call.items() if key not in ("name", "arguments")}
    return {"type": "function", **others,
            "function": {"name": function["name"], "arguments": dict(arguments)}}  # fmt: skip


def _parse_json(text: object, what: str) -> Any:
    try:
        return json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be JSON: {error}") from None


def _show(value: object) -> str:
    if isinstance(value, str | int | float | bool | None):
        return f"{json.dumps(value, ensure_ascii=False)[:60]}"
    return type(value).__name__ if value else f"an empty {type(value).__name__}"
