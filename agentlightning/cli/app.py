"""The command tree of `agl`. Called by `main`; the commands import what they need when they run."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

import agentlightning

from .apo import apo
from .config import config
from .dev import dev
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .query import query
from .runner import runner
from .serve import serve
from .store import store
from .train import train

app = typer.Typer(
    name="agl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug shows Python's own traceback
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agl {agentlightning.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, not only warnings.")] = False,
) -> None:
    """Train any AI agent, its model or its prompts, with almost no change to the agent.

    Four commands take you through, and `agl COMMAND --help` explains each:

    ```
    agl doctor                                   what can this machine do?
    agl dev my_agent:agent --tasks val.jsonl     does the agent run, does it earn a reward?
    agl train my_agent:agent --run first ...     train its model
    agl apo my_agent:agent --run first ...       or tune its prompts: no GPU, any endpoint
    ```
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


app.command(no_args_is_help=True)(train)
app.command(no_args_is_help=True)(apo)
app.command(no_args_is_help=True)(dev)
app.command("eval", no_args_is_help=True)(evaluate)
app.command(no_args_is_help=True)(serve)
app.command(no_args_is_help=True)(export)
app.command(no_args_is_help=True)(runner)
app.command()(store)
app.command(no_args_is_help=True)(query)
app.command(no_args_is_help=True)(inspect)
app.command(no_args_is_help=True)(config)
app.command()(doctor)
