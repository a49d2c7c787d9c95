"""Who may use the server, how much, and what its log and numbers say."""

import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import MESSAGES, Running, loader, read_until, serving, wait_until, write_long

from mlx_gpt.serve.limits import Keys, read_keys
from mlx_gpt.serve.settings import ServeAnswers, ServedModel, ServeEngine, ServeNetwork

KEYS = ["first-key", "second-key"]
ORIGIN = "https://example.org"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def guarded(llama_folder: str) -> Iterator[Running]:
    limits = ServeNetwork(
        cors_origins=[ORIGIN], allowed_hosts=["gpt.example.org"], max_body=4096, log_prompts=True
    )
    answers = ServeAnswers(max_tokens=5, max_choices=3)
    with serving(loader(llama_folder), limits, KEYS, answers=answers) as running:
        yield running


def code_of(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["code"]


def test_a_key_is_required_but_not_for_health_and_the_page(guarded):
    for header in ({"authorization": ""}, {"authorization": "Bearer first"},
                   {"authorization": "Basic first-key"}, {"authorization": "Bearer first-key x"},
                   {"authorization": "Bearer \xff"}):  # fmt: skip
        sent = {name: value.encode("latin-1") for name, value in header.items()}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            answer = guarded.client.get(path, headers=sent)
            assert code_of(answer, 401) == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert code_of(guarded.client.post(CHAT, json={}, headers=sent), 401) == "invalid_api_key"
        for path in ("/health", "/ready", "/"):
            assert guarded.client.get(path, headers=sent).status_code == 200
    for key in KEYS:
        header = {"authorization": f"bearer  {key}"}
        assert guarded.client.get("/v1/models", headers=header).status_code == 200


def test_keys_are_read_from_a_file_and_the_environment(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# of the team\n\n one \ntwo\n")
    assert read_keys(file, {"MLX_GPT_API_KEY": "three"}) == ["three", "one", "two"]
    assert read_keys(None, {"MLX_GPT_API_KEY": ""}) == []
    file.write_text("one\nclé secrète\n")
    with pytest.raises(ValueError, match=r"keys:2: a key has only visible ASCII") as wrong:
        read_keys(file, {})
    assert "secr" not in str(wrong.value)
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="has no key"):
        read_keys(file, {})
    assert not Keys()
    assert Keys(["one"]).accept("Bearer one")
    assert not Keys(["one"]).accept("Bearer One")


def test_other_hosts_are_refused_and_addresses_are_not(guarded):
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b",
                 "[::1", "example.org"):  # fmt: skip
        assert code_of(guarded.client.get("/health", headers={"host": host}), 403) == "unknown_host"
    for host in ("localhost", "LOCALHOST:80", "page.localhost", "127.0.0.1:1", "[::1]:80",
                 "10.1.2.3", "gpt.example.org", "gpt.example.org.:8080"):  # fmt: skip
        assert guarded.client.get("/health", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_are_refused_and_those_of_the_settings_are_not(guarded):
    body = {"messages": MESSAGES, "max_tokens": 1}
    for origin in ("https://evil.example", "null", "http://example.org", f"{ORIGIN}.evil.example"):
        answer = guarded.client.post(CHAT, json=body, headers={"origin": origin})
        assert code_of(answer, 403) == "unknown_origin"
        assert "access-control-allow-origin" not in answer.headers
    answer = guarded.client.post(CHAT, json=body, headers={"origin": ORIGIN})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    own = guarded.client.post(CHAT, json=body, headers={"origin": guarded.url})
    assert own.status_code == 200
    asked = {"origin": ORIGIN, "access-control-request-method": "POST",
             "access-control-request-headers": "authorization, content-type"}  # fmt: skip
    answer = guarded.client.options(CHAT, headers=asked | {"authorization": ""})
    assert answer.status_code == 200
    assert "POST" in answer.headers["access-control-allow-methods"]
    refused = guarded.client.options(CHAT, headers=asked | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    assert code_of(guarded.chat(n=0), 400) is None
    wrong = guarded.client.post(
        CHAT, json=body, headers={"origin": ORIGIN, "authorization": "Bearer x"}
    )
    assert wrong.headers["access-control-allow-origin"] == ORIGIN  # so that the page can read it


def test_a_body_that_is_too_large_is_refused_and_its_sender_sees_why(guarded):
    big = json.dumps({"messages": [{"role": "user", "content": "x" * 100_000}]}).encode()
    assert code_of(guarded.client.post(CHAT, content=big), 413) == "body_too_large"
    pieces = (big[i : i + 1000] for i in range(0, len(big), 1000))
    assert code_of(guarded.client.post(CHAT, content=pieces), 413) == "body_too_large"
    host, port = urlsplit(guarded.url).netloc.split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS[0]}\r\n"
    with socket.create_connection((host, int(port))) as connection:
        announced = f"{head}Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(announced.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")  # and no 100 before it
    exact = json.dumps({"messages": MESSAGES, "max_tokens": 1}).encode()
    assert guarded.client.post(CHAT, content=exact.ljust(4096)).status_code == 200
    assert guarded.client.post(CHAT, content=exact.ljust(4097)).status_code == 413


def test_answers_have_the_limits_of_the_settings(guarded):
    for answer in (guarded.chat(ignore_eos=True), guarded.complete(ignore_eos=True)):
        assert answer.json()["usage"]["completion_tokens"] == 5
    error = guarded.chat(max_tokens=6).json()["error"]
    assert (error["param"], error["message"]) == (
        "max_tokens",
        "max_tokens is at most 5 here, got 6",
    )
    assert guarded.chat(max_completion_tokens=6).json()["error"]["param"] == "max_completion_tokens"
    assert guarded.chat(n=4, max_tokens=1).json()["error"]["param"] == "n"
    assert len(guarded.chat(n=3, max_tokens=1).json()["choices"]) == 3


def test_the_log_has_a_line_for_each_request_and_prompts_only_if_asked(
    guarded, llama_folder, caplog
):
    logger = logging.getLogger("mlx_gpt.serve")
    logger.setLevel(logging.INFO)
    guarded.complete("A secret\nof mine", max_tokens=1)
    guarded.client.get("/nothing%0Ahere", headers={"x": "y"})
    wait_until(lambda: len(caplog.messages) == 2)
    line, other = caplog.messages
    assert re.fullmatch(
        r"POST /v1/completions 200 \d+\.\d{3}s id=[0-9a-f]{24} prompt=\d+ cached=\d+ tokens=\d"
        r"( first=\d+\.\d{3}s)? prompt_text='A secret\\nof mine' answers=\['.*'\]",
        line,
    )
    assert other.startswith("GET /nothing%0Ahere 404 ")
    caplog.clear()
    with serving(loader(llama_folder)) as quiet:
        quiet.complete("A secret", max_tokens=1)
        quiet.complete("A secret", max_tokens=-1)
        wait_until(lambda: len(caplog.messages) >= 2)
    assert "secret" not in caplog.text


def test_metrics_count_requests_and_tokens(llama_folder):
    with serving(loader(llama_folder)) as server:
        used = server.chat(max_tokens=4, ignore_eos=True).json()["usage"]
        server.chat(max_tokens=0)
        server.client.get("/who-knows")
        wait_until(lambda: 'route="other"' in server.client.get("/metrics").text)
        text = server.client.get("/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    route = 'route="/v1/chat/completions"'
    assert numbers[f'mlx_gpt_requests_total{{{route},status="200"}}'] == "1.0"
    assert numbers[f'mlx_gpt_requests_total{{{route},status="400"}}'] == "1.0"
    assert numbers['mlx_gpt_requests_total{route="other",status="404"}'] == "1.0"
    assert float(numbers["mlx_gpt_prompt_tokens_total"]) == used["prompt_tokens"]
    assert float(numbers["mlx_gpt_generated_tokens_total"]) == 4
    assert numbers['mlx_gpt_finished_total{reason="length"}'] == "1.0"
    assert numbers["mlx_gpt_first_token_seconds_count"] == "1.0"
    assert numbers["mlx_gpt_between_tokens_seconds_count"] == "3.0"
    assert numbers["mlx_gpt_active"] == numbers["mlx_gpt_queued"] == "0.0"
    assert numbers["mlx_gpt_alive"] == "1.0"
    assert "process_resident_memory_bytes" in text


def test_a_full_queue_is_429_with_the_time_to_wait(llama_folder, tmp_path):
    folder = write_long(llama_folder, tmp_path / "long")
    limits = {"max_batch": 1, "max_queue": 1}
    with serving(loader(folder), scheduler=limits, engine=ServeEngine(**limits)) as server:
        with server.ask() as first, server.ask(max_tokens=1) as second:
            read_until(first, b'"content":')
            wait_until(lambda: server.scheduler.stats().queued == 1)
            refused = server.chat(max_tokens=1)
            assert code_of(refused, 429) == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
            assert server.chat(n=2).json()["error"]["param"] == "n"  # can never be queued
            first.close()
            read_until(second, b"[DONE]")
        assert server.is_good()


def test_more_requests_or_connections_than_allowed_are_refused(llama_folder, tmp_path):
    folder = write_long(llama_folder, tmp_path / "long")
    limits = ServeNetwork(max_requests=1, max_connections=3)
    with serving(loader(folder), limits) as server:
        host, port = urlsplit(server.url).netloc.split(":")
        with server.ask() as first:
            read_until(first, b'"content":')
            refused = server.chat(max_tokens=1)
            assert code_of(refused, 429) == "too_many_requests"
            assert refused.headers["retry-after"] == "1"
            with socket.create_connection((host, int(port))):  # the third
                with socket.create_connection((host, int(port))) as fourth:
                    assert fourth.recv(65536).startswith(b"HTTP/1.1 503")
                assert server.client.get("/health").status_code == 200
        wait_until(server.is_good)


def test_names_with_two_meanings_are_refused(llama_folder):
    from mlx_gpt.serve.names import ServedNames

    with pytest.raises(ValueError, match="'tiny' is the model's and an adapter's"):
        ServedNames(ServedModel("tiny"), ["tiny"], 128)
    names = ServedNames(ServedModel("runs/a", "org/a", aliases=["b"]), ["poems"], 128)
    for name in ("poems", "org/a:poems", "a:poems", "b:poems"):
        assert names.find(name).id == "org/a:poems"
    assert names.find(None).adapter is names.find("b").adapter is None
