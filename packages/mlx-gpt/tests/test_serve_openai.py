"""What OpenAI's own Python client sends and reads: whole, streamed, asynchronous, and errors."""

import asyncio
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel
from serving import MESSAGES, Running, loader, serving

KEY = "secret-key"


class Flag(BaseModel):
    """What the client asks for as structured output."""

    on: bool


@pytest.fixture(scope="module")
def server(llama_folder: str) -> Iterator[Running]:
    with serving(loader(llama_folder), keys=[KEY]) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=4, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == (
        "assistant", "length",
    )  # fmt: skip
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.completion_tokens == 4
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.system_fingerprint.startswith("fp_")
    assert answer._request_id in answer.id


def test_an_answer_of_the_client_can_be_sent_back(client):
    said = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=4)
    messages = [*MESSAGES, said.choices[0].message, {"role": "user", "content": "And?"}]
    again = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert again.usage.prompt_tokens > said.usage.prompt_tokens


def test_a_chat_is_streamed(client):
    settings = {"model": "tiny", "messages": MESSAGES, "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(
            **settings, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(each.choices[0].delta.content or "" for each in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    # The helper takes an answer that was cut for an error, so this one ends at a text.
    stop = text[2:5]
    with client.chat.completions.stream(**settings, stop=stop) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text[: text.index(stop)]
    assert final.choices[0].finish_reason == "stop"


def test_log_probabilities_are_read(client, server):
    settings = {
        "model": "tiny",
        "max_tokens": 3,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    chat = client.chat.completions.create(
        **settings, messages=MESSAGES, logprobs=True, top_logprobs=2
    ).choices[0]
    assert len(chat.logprobs.content) == 3
    for token in chat.logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob == token.logprob  # greedy takes the likeliest
        assert token.top_logprobs[0].bytes == token.bytes
    assert b"".join(bytes(each.bytes) for each in chat.logprobs.content).decode(
        errors="replace"
    ) == chat.message.content  # fmt: skip
    text = client.completions.create(**settings, prompt="The quick", logprobs=2).choices[0]
    assert len(text.logprobs.tokens) == len(text.logprobs.token_logprobs) == 3
    assert [len(each) for each in text.logprobs.top_logprobs] == [2, 2, 2]
    assert text.logprobs.text_offset[0] == 0
    token = server.scheduler.tokenizer.encode("e")[0]
    bias = {str(token): 100}
    forced = client.completions.create(**settings, prompt="The", logprobs=1, logit_bias=bias)
    assert forced.choices[0].logprobs.tokens == ["e", "e", "e"]
    assert forced.choices[0].logprobs.text_offset == [0, 1, 2]
    alone = client.completions.create(**settings, prompt="The quick", logprobs=0).choices[0]
    assert alone.logprobs.top_logprobs is None
    assert alone.logprobs.token_logprobs == pytest.approx(text.logprobs.token_logprobs, abs=1e-4)


def test_streams_have_the_log_probabilities_of_whole_answers(client):
    settings = {"model": "tiny", "messages": MESSAGES, "max_tokens": 4, "temperature": 0,
                "logprobs": True, "top_logprobs": 1}  # fmt: skip
    whole = client.chat.completions.create(**settings).choices[0].logprobs.content
    chunks = client.chat.completions.create(**settings, stream=True)
    found = [each for chunk in chunks for each in getattr(chunk.choices[0].logprobs, "content", ())]
    assert [each.token for each in found] == [each.token for each in whole]
    assert [each.logprob for each in found] == pytest.approx([e.logprob for e in whole], abs=1e-4)


def test_completions_are_answered_and_streamed(client):
    settings = {"model": "tiny", "prompt": ["The quick", "She"], "max_tokens": 3, "temperature": 0}
    whole = client.completions.create(**settings)
    assert [each.index for each in whole.choices] == [0, 1]
    assert whole.object == "text_completion"
    texts = ["", ""]
    for chunk in client.completions.create(**settings, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [each.text for each in whole.choices]


def test_a_class_of_pydantic_is_parsed(client):
    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Flag, max_tokens=100, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Flag)


def test_models_are_listed_and_retrieved(client):
    [model] = client.models.list()
    assert (model.id, model.owned_by) == ("org/tiny", "mlx-gpt")
    assert client.models.retrieve("tiny") == model
    assert client.models.retrieve("org/tiny") == model


def test_errors_have_their_class_and_fields(client, server):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=-1)
    assert (bad.value.param, bad.value.type, bad.value.code) == (
        "temperature", "invalid_request_error", None,
    )  # fmt: skip
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError) as route:
        client.embeddings.create(model="tiny", input="x")
    assert route.value.code == "unknown_url"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="tiny", input="x")
    stranger = client.with_options(api_key="another")
    with stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"


def test_the_asynchronous_client_is_answered(server):
    async def talk() -> tuple[list[str | None], str]:
        url = f"{server.url}/v1"
        settings = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "temperature": 0}
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            create = client.chat.completions.create
            answers = await asyncio.gather(*(create(**settings) for _ in range(4)))
            pieces = [
                each.choices[0].delta.content or ""
                async for each in await create(**settings, stream=True)
            ]
            with pytest.raises(openai.BadRequestError):
                await create(**settings, n=0)
        return [each.choices[0].message.content for each in answers], "".join(pieces)

    answers, streamed = asyncio.run(talk())
    assert set(answers) == {streamed}
