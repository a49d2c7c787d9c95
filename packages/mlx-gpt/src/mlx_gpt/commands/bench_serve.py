"""`mlx-gpt bench-serve`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import AT_LEAST_1, api_key, api_key_option, numbers
from mlx_trainer.command_line import Finite

_EPILOG = """\b
Examples:
  mlx-gpt bench-serve --url http://127.0.0.1:8080 --clients 8 --requests 64
  mlx-gpt bench-serve --url http://127.0.0.1:8080 --rate 2 --prompts rows.jsonl --plot load.png

Prompts differ from their first word on, so that prefix caches do not help; a file may have others.
"""


@click.command("bench-serve", epilog=_EPILOG)
@click.option("--url", required=True, help="The server.")
@api_key_option
@click.option("--model", help="Name in requests.  [default: the server's first]")
@click.option("--clients", type=AT_LEAST_1,
              help="Clients that send one request after another.  [default: 1]")  # fmt: skip
@click.option("--rate", type=Finite(0, min_open=True),
              help="Requests a second at random times, instead of --clients.")  # fmt: skip
@click.option("--requests", type=AT_LEAST_1, help="How many.  [default: 32, or all of --prompts]")
@click.option("--prompt-words", metavar="N,N",
              help="Lengths of made-up prompts, one of these each.  [default: 64]")  # fmt: skip
@click.option("--max-tokens", default="64", show_default=True, metavar="N,N",
              help="Longest answers, one of these each.")  # fmt: skip
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON lines with prompt, messages or words, and max_tokens.")  # fmt: skip
@click.option("--completions", is_flag=True, help="Continue texts, not chats.")
@click.option("--ignore-eos", is_flag=True,
              help="Answers of exactly --max-tokens, where the server can.")  # fmt: skip
@click.option("--body", metavar="JSON", help='More fields of requests, as {"temperature": 0}.')
@click.option("--warmup", default=1, show_default=True, type=click.IntRange(0),
              help="Requests before, not counted.")  # fmt: skip
@click.option("--timeout", default=600.0, show_default=True, type=Finite(0, min_open=True),
              help="Longest wait for a piece of an answer, in seconds.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=int, help="Of prompts and times.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--plot", "figure", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the times as PNG.")  # fmt: skip
def bench_serve(
    url: str,
    api_key_env: str | None,
    model: str | None,
    clients: int | None,
    rate: float | None,
    requests: int | None,
    prompt_words: str | None,
    max_tokens: str,
    prompts: Path | None,
    completions: bool,
    ignore_eos: bool,
    body: str | None,
    warmup: int,
    timeout: float,
    seed: int,
    as_json: bool,
    figure: Path | None,
) -> None:
    """Measure a server under load: times to the first token and between tokens, tokens a second.

    Exits with 1 if a request failed.
    """
    import json
    from itertools import cycle, islice

    from mlx_gpt.serve.client import Server
    from mlx_gpt.serve.load import make_bodies, measure, read_bodies, run_load

    if rate and clients:
        raise click.UsageError("--rate and --clients exclude each other")
    if prompts and prompt_words:
        raise click.UsageError("--prompts and --prompt-words exclude each other")
    clients = clients or 1
    server = Server(url, api_key(api_key_env), timeout)
    lengths, limits = numbers(prompt_words or "64"), numbers(max_tokens)
    more = _fields(body) | ({"ignore_eos": True} if ignore_eos else {})
    if prompts:
        found = read_bodies(prompts, not completions, limits[0], seed)
        found = list(islice(cycle(found), requests or len(found)))
    else:
        found = make_bodies(requests or 32, lengths, limits, not completions, seed)
    if model is None:
        models = server.models()
        if not models:
            raise click.UsageError(f"{url} lists no model; name one by --model")
        model = models[0]
    bodies = [{**each, **more, "model": model} for each in found]
    path = "/completions" if completions else "/chat/completions"
    for each in islice(cycle(bodies), warmup):
        measure(server, path, each, 0.0)
    load = run_load(server, path, bodies, clients, rate, seed)
    how = f"{clients} clients" if rate is None else f"{rate:g} requests/s at random times"
    title = f"{model} at {url}, {how}"
    click.echo(json.dumps({"model": model, "url": url, "clients": None if rate else clients,
                           "rate": rate, **load.summary()})
               if as_json else f"{title}\n{load.table()}")  # fmt: skip
    if figure:
        from mlx_gpt.serve.load_plot import plot

        plot(load, title, figure)
    if load.failed:
        raise click.ClickException(
            f"{len(load.failed)} of {len(bodies)} requests failed; the first: "
            f"{load.failed[0].error}"
        )


def _fields(text: str | None) -> dict:
    import json

    try:
        fields = json.loads(text or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise click.UsageError(f"--body must be a JSON object, got {text!r}")
    return fields
