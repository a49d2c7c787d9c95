"""`mlx-gpt serve`."""

from pathlib import Path

import click

from mlx_gpt.commands.options import SETTINGS_EPILOG, device_option
from mlx_gpt.serve.settings import ServeSettings
from mlx_trainer.command_line import SettingsCommand, settings_options

EPILOG = """\b
  mlx-gpt serve --model runs/chat
  mlx-gpt serve --model llama/ --adapter poems=runs/poems --kv-bits 8 --prefix-cache 4GiB
  mlx-gpt serve --model llama/ --host 0.0.0.0 --api-key-file keys.txt

\b
Clients of OpenAI's API use http://127.0.0.1:8080/v1; the page to chat is at /. SIGTERM and Ctrl-C
let answers in progress end; a second one does not. Exit code 1: the engine failed.

"""
_NEEDED = ("fastapi", "llguidance", "prometheus_client", "uvicorn")


@click.command(cls=SettingsCommand, epilog=EPILOG + SETTINGS_EPILOG)
@click.option("--config", type=click.Path(exists=True, dir_okay=False),
              help="YAML file of settings.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Any setting of the file; repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the settings and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
@device_option
@settings_options(ServeSettings)
def serve(
    flags: dict[str, object],
    config: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Serve a model to clients of OpenAI's API, and a page to chat with it."""
    if not ("model.folder" in flags or config):
        raise click.UsageError("Missing option '--model'.")
    from importlib.util import find_spec

    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise click.ClickException(
            f"mlx-gpt serve needs {', '.join(missing)}: pip install 'mlx-gpt[serve]'"
        )
    import json
    import os

    from mlx_trainer import dump_config, load_config

    settings = load_config(ServeSettings, None, config, overrides, flags)
    for folder in (settings.model.folder, *settings.model.adapters.values()):
        if not Path(folder).is_dir():
            raise click.UsageError(f"{folder} is not a folder")
    from mlx_gpt.machine import prepare_machine

    prepare_machine()
    from mlx_gpt.serve.app import create_app
    from mlx_gpt.serve.limits import KEY_VARIABLE, read_keys
    from mlx_gpt.serve.logs import LOG, write_log
    from mlx_gpt.serve.server import Server, address_of, is_local, listen
    from mlx_gpt.serve.startup import default_sampling, start_scheduler

    network = settings.network
    keys = read_keys(network.api_key_file, os.environ)
    if not (keys or network.no_key or is_local(network.host)):
        raise click.UsageError(
            f"--host {network.host} serves other machines: give --api-key-file or {KEY_VARIABLE}, "
            "or --no-key to let everybody in"
        )
    if dry_run:
        click.echo(dump_config(settings), nl=False)
        return
    write_log()
    if not keys and not is_local(network.host):
        LOG.warning("no key: everybody who reaches %s may use this server", network.host)
    bound = listen(network.host, network.port)  # before loading: a port in use is known at once
    sampling = default_sampling(settings)
    scheduler = start_scheduler(settings)

    def announce() -> None:
        about = {"url": address_of(bound), "model": settings.model.id,
                 "adapters": [*settings.model.adapters], "pid": os.getpid()}  # fmt: skip
        click.echo(json.dumps(about) if as_json else f"serving {about['model']} at {about['url']}")

    server = Server(create_app(scheduler, settings, sampling, keys), scheduler, network, announce)
    server.run([bound])
    LOG.info("stopped; answers that were cut: %d", server.cut)
