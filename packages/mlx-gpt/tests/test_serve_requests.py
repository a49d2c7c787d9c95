"""Requests that ended or confused another server, and malformed ones: each with its answer."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from serving import MESSAGES, Running, events, loader, serving

from mlx_gpt.serve.settings import ServeNetwork

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BOOLEAN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
           "additionalProperties": False}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server(llama_folder: str) -> Iterator[Running]:
    with serving(loader(llama_folder)) as running:
        yield running


def error_of(answer: Any, status: int = 400) -> dict[str, Any]:
    """Return the error of an answer, after checking its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error


def test_a_logit_bias_beyond_the_vocabulary_is_refused(server):
    error = error_of(server.chat(logit_bias={"320": 1}, max_tokens=1))
    assert error["param"] == "logit_bias"
    assert error["message"] == "logit_bias has the id 320, but there are 320 tokens"
    assert server.chat(logit_bias={"319": 1}, max_tokens=1).status_code == 200


def test_a_logit_bias_of_100_decides(server):
    token = server.scheduler.tokenizer.encode("e")[0]
    answer = server.complete(logit_bias={str(token): 100}, max_tokens=3, temperature=1)
    assert answer.json()["choices"][0]["text"] == "eee"


def test_a_completion_of_several_texts_has_a_choice_for_each(server):
    found = server.complete(["The quick", "What is"], max_tokens=3, temperature=0).json()
    alone = [server.complete(each, max_tokens=3, temperature=0).json()
             for each in ("The quick", "What is")]  # fmt: skip
    assert [each["index"] for each in found["choices"]] == [0, 1]
    assert [each["text"] for each in found["choices"]] == [
        each["choices"][0]["text"] for each in alone
    ]
    assert found["usage"]["prompt_tokens"] == sum(e["usage"]["prompt_tokens"] for e in alone)
    assert found["usage"]["completion_tokens"] == 6


def test_a_completion_takes_tokens_and_lists_of_tokens(server):
    ids = list(server.scheduler.tokenizer.prompt_ids("The quick"))
    texts = [
        each["text"]
        for prompt in ("The quick", ids, [ids, ids])
        for each in server.complete(prompt, max_tokens=3, temperature=0).json()["choices"]
    ]
    assert len(texts) == 4
    assert len(set(texts)) == 1
    assert error_of(server.complete([5, 320]))["message"] == (
        "the prompt has id 320, but the tokenizer has 320 tokens"
    )


def test_an_empty_prompt_is_answered(server):
    assert server.complete("", max_tokens=2).json()["usage"]["completion_tokens"] == 2


def test_echo_repeats_the_prompt(server):
    plain = server.complete(max_tokens=2, temperature=0).json()["choices"][0]["text"]
    echo = server.complete(max_tokens=2, temperature=0, echo=True).json()["choices"][0]["text"]
    assert echo == "The quick" + plain
    chunks = events(server.complete(max_tokens=2, temperature=0, echo=True, stream=True))
    assert "".join(each["choices"][0]["text"] for each in chunks) == echo


def test_a_stop_text_ends_the_answer_wherever_tokens_end(server):
    text = server.complete(max_tokens=16, temperature=0).json()["choices"][0]["text"]
    for begin in range(3, len(text) - 3, 3):
        stop = text[begin : begin + 2]
        answer = server.complete(max_tokens=16, temperature=0, stop=stop).json()
        assert answer["choices"][0]["text"] == text[: text.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"
    answer = server.complete(max_tokens=16, temperature=0, stop=["never", text[4:7]]).json()
    assert answer["choices"][0]["text"] == text[: text.index(text[4:7])]


def test_null_means_the_default(server):
    fields = ("temperature", "top_p", "stream", "logprobs", "stop", "n", "seed", "logit_bias",
              "stream_options", "tools", "response_format", "audio", "model",
              "max_completion_tokens", "function_call", "unheard_of")  # fmt: skip
    assert server.chat(**dict.fromkeys(fields), max_tokens=1).status_code == 200
    unlimited = server.complete(max_tokens=None)
    assert unlimited.json()["usage"]["completion_tokens"] <= 16


def test_max_completion_tokens_wins(server):
    answer = server.chat(max_tokens=5, max_completion_tokens=2, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_chat_without_a_limit_ends_at_the_context(server):
    usage = server.chat(ignore_eos=True).json()["usage"]
    assert usage["total_tokens"] == server.scheduler.context_length == 128


def test_a_stream_has_the_chunks_that_clients_expect(server):
    whole = server.chat(max_tokens=6, temperature=0, ignore_eos=True).json()
    for options in ({}, {"include_usage": None}, {"include_usage": False}):
        chunks = server.stream(max_tokens=6, temperature=0, ignore_eos=True, stream_options=options)
        choices = [each["choices"][0] for each in chunks]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all(each["delta"].keys() == {"content"} for each in choices[1:-1])
        assert choices[-1] == {"index": 0, "delta": {}, "finish_reason": "length", "logprobs": None}
        text = "".join(each["delta"].get("content", "") for each in choices)
        assert text == whole["choices"][0]["message"]["content"]
        assert {each["finish_reason"] for each in choices[:-1]} == {None}
        assert len({(each["id"], each["created"], each["model"]) for each in chunks}) == 1
        assert {each["object"] for each in chunks} == {"chat.completion.chunk"}


def test_the_usage_of_a_stream_is_in_one_more_chunk(server):
    options = {"include_usage": True}
    chat = server.stream(max_tokens=3, ignore_eos=True, stream_options=options)
    text = events(server.complete(stream=True, max_tokens=3, stream_options=options))
    for chunks, name in ((chat, "chat.completion.chunk"), (text, "text_completion")):
        assert {each["usage"] is None for each in chunks[:-1]} == {True}
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["object"] == name
    usage = chat[-1]["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0


def test_models_are_listed_with_their_owner(server):
    listing = server.client.get("/v1/models").json()
    assert listing["object"] == "list"
    [model] = listing["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("org/tiny", "model", "mlx-gpt")
    assert isinstance(model["created"], int)
    for name in ("org/tiny", "org%2Ftiny", "tiny", "small"):
        assert server.client.get(f"/v1/models/{name}").json() == model
    assert error_of(server.client.get("/v1/models/large"), 404)["code"] == "model_not_found"


def test_unknown_routes_and_methods_have_errors_in_json(server):
    for path in ("/v1/embeddings", "/v1/responses", "/v1", "/docs", f"{CHAT}/", "/%00"):
        error = error_of(server.client.post(path, json={}), 404)
        assert path in error["message"] or "%" in path
    for path in ("/", "/page/none", "/health"):
        assert path in error_of(server.client.post(path, json={}), 405)["message"]
    assert len(server.client.get("/" + "a" * 9000).content) < 500
    for method in ("PUT", "DELETE", "PATCH", "GET", "OPTIONS"):
        answer = server.client.request(method, CHAT)
        assert error_of(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "POST"


def test_n_answers_are_made_and_a_seed_repeats_them(server):
    first, again = (
        server.chat(n=3, max_tokens=4, seed=7, ignore_eos=True).json() for _ in range(2)
    )
    texts = [each["message"]["content"] for each in first["choices"]]
    assert texts == [each["message"]["content"] for each in again["choices"]]
    assert len(set(texts)) == 3
    assert [each["index"] for each in first["choices"]] == [0, 1, 2]
    assert first["usage"]["completion_tokens"] == 12
    alone = server.chat(max_tokens=4, seed=8, ignore_eos=True).json()
    assert alone["choices"][0]["message"]["content"] == texts[1]
    assert alone["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]
    negative = server.chat(max_tokens=4, seed=-1, ignore_eos=True)
    assert negative.status_code == 200


def test_streams_of_n_answers_interleave_them(server):
    whole = server.chat(n=2, max_tokens=4, seed=3, ignore_eos=True).json()["choices"]
    chunks = server.stream(n=2, max_tokens=4, seed=3, ignore_eos=True)
    for index in (0, 1):
        mine = [each["choices"][0] for each in chunks if each["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert mine[-1]["finish_reason"] == "length"
        text = "".join(each["delta"].get("content", "") for each in mine)
        assert text == whole[index]["message"]["content"]


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(server):
    ids = [7] * 128
    error = error_of(server.complete(ids))
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert "128 tokens" in error["message"]
    assert "context has 128" in error["message"]
    assert server.complete(ids[1:], max_tokens=50).json()["usage"]["completion_tokens"] == 1


def test_whole_numbers_are_numbers_and_bools_are_not(server):
    numbers = {"temperature": 1, "top_p": 1, "min_p": 0, "top_k": 0, "repetition_penalty": 1,
               "presence_penalty": 0, "frequency_penalty": 2}  # fmt: skip
    assert server.chat(**numbers, max_tokens=1).status_code == 200
    for field in ("max_tokens", "temperature", "n", "seed", "top_k", "top_p"):
        assert error_of(server.chat(**{field: True}))["param"] == field


def test_no_path_or_hub_name_is_loaded_from_a_request(server, llama_folder):
    for name in (llama_folder, "mlx-community/Llama-3.2-1B", "../tiny", "tiny:none", ""):
        error = error_of(server.chat(model=name), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    for field in ("adapters", "draft_model", "adapter_path"):
        assert error_of(server.chat(**{field: llama_folder}))["code"] == "unknown_parameter"
    for name in ("org/tiny", "tiny", "small"):
        assert server.chat(model=name, max_tokens=1).json()["model"] == "org/tiny"


def test_a_schema_is_obeyed(server):
    form = {"type": "json_schema", "json_schema": {"name": "b", "schema": BOOLEAN}}
    answer = server.chat(response_format=form, n=2, seed=1, max_tokens=100).json()
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        assert isinstance(json.loads(choice["message"]["content"])["a"], bool)
    wrong = {"type": "json_schema", "json_schema": {"name": "b", "schema": {"type": "thing"}}}
    assert error_of(server.chat(response_format=wrong))["param"] == "response_format"


def test_what_is_not_supported_is_refused_by_name(server):
    for field, value in {
        "tools": [TOOL], "audio": {"voice": "a"}, "functions": [{"name": "f"}], "store": True,
        "reasoning_effort": "high", "modalities": ["audio"], "service_tier": "flex",
        "prediction": {"type": "content"}, "web_search_options": {},
    }.items():  # fmt: skip
        assert error_of(server.chat(**{field: value}))["param"].startswith(field)
    for field, value in {"suffix": "x", "best_of": 3}.items():
        assert error_of(server.complete(**{field: value}))["param"] == field
    assert error_of(server.complete(echo=True, logprobs=1))["param"] == "echo"


MALFORMED: list[tuple[str, Any, int, str | None]] = [
    (CHAT, b"", 400, None),
    (CHAT, b"{", 400, None),
    (CHAT, b"\xff\xfe{}", 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b"null", 400, None),
    (CHAT, b'"hi"', 400, None),
    (CHAT, b'{"messages": [' + b"[" * 50_000, 400, None),
    (CHAT, b'{"messages": [], "n": ' + b"9" * 5000 + b"}", 400, None),
    (CHAT, {}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": ["hi"]}, 400, "messages[0]"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400,
     "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "mood": 1}]}, 400, "messages[0].mood"),
    (CHAT, {"messages": MESSAGES, "stop": 5}, 400, "stop"),
    (CHAT, {"messages": MESSAGES, "stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
    (CHAT, {"messages": MESSAGES, "stop": ["x", ""]}, 400, "stop"),
    (CHAT, {"messages": MESSAGES, "temperature": -1}, 400, "temperature"),
    (CHAT, {"messages": MESSAGES, "temperature": "0.5"}, 400, "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400,
     "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "top_p": 1e999}', 400, "top_p"),
    (CHAT, {"messages": MESSAGES, "top_p": 0}, 400, "top_p"),
    (CHAT, {"messages": MESSAGES, "max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"messages": MESSAGES, "max_tokens": 2.5}, 400, "max_tokens"),
    (CHAT, {"messages": MESSAGES, "n": 0}, 400, "n"),
    (CHAT, {"messages": MESSAGES, "n": 128}, 400, "n"),
    (CHAT, {"messages": MESSAGES, "seed": "one"}, 400, "seed"),
    (CHAT, {"messages": MESSAGES, "stream": "yes"}, 400, "stream"),
    (CHAT, {"messages": MESSAGES, "stream_options": {}}, 400, "stream_options"),
    (CHAT, {"messages": MESSAGES, "logit_bias": {"a": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": MESSAGES, "logit_bias": {"-1": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": MESSAGES, "logit_bias": {"1": "x"}}, 400, "logit_bias"),
    (CHAT, {"messages": MESSAGES, "logit_bias": [1]}, 400, "logit_bias"),
    (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"messages": MESSAGES, "response_format": {"type": "xml"}}, 400,
     "response_format.type"),
    (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema"}}, 400,
     "response_format.json_schema"),
    (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, 400, "tool_choice"),
    (CHAT, {"messages": MESSAGES, "tools": [{"type": "web"}]}, 400, "tools[0].type"),
    (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {"tools": 1}}, 400,
     "chat_template_kwargs"),
    (CHAT, {"messages": MESSAGES, "model": 5}, 400, "model"),
    (CHAT, {"messages": MESSAGES, "model": "gpt-9"}, 404, "model"),
    (CHAT, {"messages": MESSAGES, "temprature": 1}, 400, "temprature"),
    (TEXT, {}, 400, "prompt"),
    (TEXT, {"prompt": None}, 400, "prompt"),
    (TEXT, {"prompt": 5}, 400, "prompt"),
    (TEXT, {"prompt": []}, 400, "prompt"),
    (TEXT, {"prompt": [[]]}, 400, "prompt"),
    (TEXT, {"prompt": [1, "a"]}, 400, "prompt"),
    (TEXT, {"prompt": [True]}, 400, "prompt"),
    (TEXT, {"prompt": [-1]}, 400, "prompt"),
    (TEXT, {"prompt": [10**30]}, 400, "prompt"),
    (TEXT, {"prompt": ["a"] * 65}, 400, "prompt"),
    (TEXT, {"prompt": "a", "logprobs": True}, 400, "logprobs"),
]  # fmt: skip


def test_malformed_requests_are_refused_and_a_good_one_is_answered_after_each(server):
    for path, body, status, param in MALFORMED:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = server.client.post(
            path, content=content, headers={"content-type": "application/json"}
        )
        assert error_of(answer, status)["param"] == param, (body, answer.text)
        assert server.is_good(), body


def test_the_published_schema_has_every_route_and_the_form_of_errors(server):
    schema = server.client.get("/openapi.json").json()
    assert {*schema["paths"]} == {"/health", "/ready", "/metrics", "/v1/models",
                                  "/v1/models/{name}", CHAT, TEXT}  # fmt: skip
    answers = schema["paths"][CHAT]["post"]["responses"]
    assert "422" not in answers
    assert {*answers["200"]["content"]} == {"application/json", "text/event-stream"}
    form = answers["400"]["content"]["application/json"]["schema"]
    assert form == {"$ref": "#/components/schemas/ErrorBody"}


def test_the_wrong_kind_of_content_is_named(server):
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        answer = server.client.post(CHAT, content=b"{}", headers={"content-type": kind})
        assert kind in error_of(answer, 415)["message"]
    body = json.dumps({"messages": MESSAGES, "max_tokens": 1}).encode()
    assert server.client.post(CHAT, content=body).status_code == 200  # without any


def test_text_that_is_no_unicode_is_answered(server):
    body = json.dumps({"messages": [{"role": "user", "content": "\ud800"}], "max_tokens": 1})
    answer = server.client.post(CHAT, content=body.encode())
    assert answer.status_code == 200
    body = json.dumps({"messages": MESSAGES, "model": "\ud800"})
    assert error_of(server.client.post(CHAT, content=body.encode()), 404)


def test_a_connection_is_used_again_after_answers_and_errors(server):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.connect()
    socket_before = connection.sock
    for body, status in ((b"{", 400), (b"{}", 400), (None, 200), (b"x", 400), (None, 200)):
        good = json.dumps({"messages": MESSAGES, "max_tokens": 1}).encode()
        connection.request("POST", CHAT, body or good, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.version) == (status, 11)
    assert connection.sock is socket_before
    connection.close()


def exchange(url: str, *parts: bytes) -> bytes:
    """Send bytes as they are; return all that comes back until the server closes."""
    host, port = urlsplit(url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


def test_what_is_not_http_gets_an_error_in_json(server):
    post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    for sent in (
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # a client that speaks TLS
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        post + b"Content-Length: -1\r\n\r\n{}",
        post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        head, _, body = exchange(server.url, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400"), sent[:40]
        assert json.loads(body)["error"]["message"]
    assert server.is_good()


def test_half_a_head_and_half_a_body_end_in_time(llama_folder):
    limits = ServeNetwork(header_seconds=0.2, body_seconds=0.2)
    with serving(loader(llama_folder), limits) as server:
        post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        for sent, code in (
            (b"", b"head_timeout"),
            (post, b"head_timeout"),
            (post + b"Content-Length: 50\r\n\r\n{", b"body_timeout"),
            (post + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"body_timeout"),
        ):
            head, _, body = exchange(server.url, sent).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408")
            assert code in body
        assert server.is_good()
