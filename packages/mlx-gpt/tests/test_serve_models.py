"""What depends on the model: adapters by name, calls of tools, nanochat's conversations."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from serving import MESSAGES, events, loader, read_until, serving, wait_until, write_long
from test_tool_calls import TEMPLATES, TOOLS

import mlx_gpt.serve.running
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.serve.settings import ServedModel
from mlx_lora import LoraConfig, add_adapter, save_adapter


@pytest.fixture
def adapters(llama_folder: str, tmp_path: Path) -> dict[str, Path]:
    """Two adapters that change the model, by name."""
    found = {}
    for name, targets in (("poems", ["q_proj", "v_proj"]), ("code", ["up_proj", "o_proj"])):
        model = load_model(llama_folder)
        mx.random.seed(len(found))
        add_adapter(model, LoraConfig(r=2, target_modules=targets))
        model.update(tree_map(lambda p: mx.random.normal(p.shape), model.trainable_parameters()))
        found[name] = tmp_path / name
        save_adapter(model, found[name])
    return found


def test_an_adapter_is_chosen_by_the_name_of_the_model(llama_folder, adapters):
    texts = {str(name): str(folder) for name, folder in adapters.items()}
    model = ServedModel(llama_folder, "tiny", adapters=texts)
    with serving(loader(llama_folder), model=model, scheduler={"adapters": adapters}) as server:
        ids = [each["id"] for each in server.client.get("/v1/models").json()["data"]]
        assert ids == ["tiny", "tiny:poems", "tiny:code"]
        answers = {}
        for name in ("tiny", "poems", "tiny:poems", "code"):
            found = server.chat(model=name, max_tokens=6, temperature=0, ignore_eos=True).json()
            answers[name] = found["choices"][0]["message"]["content"]
            assert found["model"] == (name if ":" in name or name == "tiny" else f"tiny:{name}")
        assert answers["poems"] == answers["tiny:poems"]
        assert len(set(answers.values())) == 3


def test_tools_are_called_where_the_template_has_them(llama_folder, tmp_path):
    folder = Path(write_long(llama_folder, tmp_path / "tools"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATES["hermes"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 200, "seed": 1}
    with serving(loader(folder)) as server:
        [whole] = server.chat(**asked).json()["choices"]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["content"] is None
        [call] = whole["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in ("Rom", "Ulm")
        deltas = [each["choices"][0] for each in server.stream(**asked)]
        assert deltas[-1]["finish_reason"] == "tool_calls"
        parts = [row for each in deltas for row in each["delta"].get("tool_calls", ())]
        assert parts[0]["function"]["name"] == "weather"
        text = "".join(each["function"]["arguments"] for each in parts)
        assert text == call["function"]["arguments"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
        messages = [*MESSAGES, whole["message"], result]
        again = server.chat(messages=messages, tools=TOOLS, max_tokens=2)
        assert again.status_code == 200, again.text
        both = server.chat(**asked, response_format={"type": "json_object"})
        assert both.json()["error"]["param"] == "response_format"
        none = server.chat(**asked | {"tool_choice": "none", "max_tokens": 2})
        assert "tool_calls" not in none.json()["choices"][0]["message"]
        unknown = {"type": "function", "function": {"name": "snow"}}
        error = server.chat(**asked | {"tool_choice": unknown}).json()["error"]
        assert error["param"] == "tool_choice"
        call["function"]["arguments"] = "{broken"
        error = server.chat(messages=messages).json()["error"]
        assert error["param"] == "messages[1].tool_calls[0].function.arguments"


def test_nanochats_conversations_are_answered_and_wrong_ones_are_not(
    tiny_model, tokenizer, tmp_path
):
    save_model(tiny_model, tmp_path)
    tokenizer.save(tmp_path)
    with serving(loader(tmp_path)) as server:
        system = {"role": "developer", "content": "Be brief."}
        answer = server.chat(messages=[system, *MESSAGES], max_tokens=3, temperature=0)
        assert answer.status_code == 200, answer.text
        last = [*MESSAGES, {"role": "assistant", "content": "Three."}]
        for messages in (last, [*MESSAGES, *MESSAGES], [system]):
            error = server.chat(messages=messages).json()["error"]
            assert error["param"] == "messages"
        assert server.chat(tools=TOOLS).json()["error"]["param"] == "tools"
        variables = {"enable_thinking": False}
        error = server.chat(chat_template_kwargs=variables).json()["error"]
        assert error["param"] == "chat_template_kwargs"


def test_an_error_of_a_template_tells_no_path(llama_folder, tmp_path):
    folder = Path(write_long(llama_folder, tmp_path / "strict"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ raise_exception('no such roles') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with serving(loader(folder)) as server:
        error = server.chat().json()["error"]
        assert (error["param"], error["type"]) == ("messages", "invalid_request_error")
        assert "no such roles" in error["message"]
        assert str(tmp_path) not in error["message"]
        assert server.complete(max_tokens=1).status_code == 200


def test_a_stream_that_waits_is_kept_alive_by_comments(llama_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(mlx_gpt.serve.running, "_KEEP_ALIVE_SECONDS", 0.05)
    folder = write_long(llama_folder, tmp_path / "long")
    with (
        serving(loader(folder), scheduler={"max_batch": 1}) as server,
        server.ask() as first,
        server.ask(max_tokens=2) as second,
    ):
        read_until(first, b'"content":')
        wait_until(lambda: server.scheduler.stats().queued == 1)
        received = read_until(second, b": keepalive")
        assert received.startswith(b"HTTP/1.1 200")
        first.close()
        assert b'"finish_reason":"length"' in received + read_until(second, b"[DONE]")


def test_a_second_stream_of_the_same_prompt_reports_cached_tokens(llama_folder):
    with serving(loader(llama_folder)) as server:
        first = server.chat(max_tokens=2).json()["usage"]["prompt_tokens_details"]
        second = server.chat(max_tokens=2).json()["usage"]["prompt_tokens_details"]
        assert first["cached_tokens"] == 0
        assert second["cached_tokens"] > 0
        chunks = events(server.chat(max_tokens=2, stream=True,
                                    stream_options={"include_usage": True}))  # fmt: skip
        assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
