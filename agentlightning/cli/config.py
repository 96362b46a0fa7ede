"""`agl config`: what a configuration comes to, what a key means, which presets there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def config(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, by verl's keys: `algorithm.adv_estimator=grpo`."),
    ] = None,
    *,
    config_name: Annotated[
        str | None, typer.Option("--config-name", "-n", metavar="NAME", help="A preset, or a .yaml file.")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config-path", metavar="DIR", help="Where the file `--config-name` is.")
    ] = None,
    explain: Annotated[str | None, typer.Option(metavar="KEY", help="Say what a key or section means.")] = None,
    list_presets: Annotated[bool, typer.Option("--list-presets", help="List the presets.")] = False,
) -> None:
    """Show a configuration without running it.

    Prints the whole configuration as YAML, which `--config-name FILE.yaml` takes again, and on stderr the table of keys
    that do something else here:

    ```
    agl config --config-name dapo data.train_batch_size=64 > mine.yaml
    agl config --explain algorithm.filter_groups.metric
    agl config --list-presets
    ```
    """
    if list_presets:
        _print_presets()
    elif explain is not None:
        _print_explanation(explain)
    else:
        _print_resolved(overrides or [], config_name, config_path)


def _print_resolved(overrides: list[str], config_name: str | None, config_path: Path | None) -> None:
    from rich.console import Console

    from agentlightning.report.table import print_notes
    from agentlightning.verl.config import as_yaml, config_file, load_config

    # Whatever else a configuration says, it can be shown; `???` is OmegaConf's word for what is still to be given.
    base = {"actor_rollout_ref.model.path": "???"}
    resolved = load_config(overrides, base=base, preset=config_file(config_name, config_path))
    typer.echo(as_yaml(resolved.config), nl=False)
    notes = [(note.key, note.value, note.instead, note.real) for note in resolved.notes]
    print_notes(notes, Console(stderr=True))


def _print_presets() -> None:
    from agentlightning.verl.config.presets import preset_names, preset_summary

    _print_rows([(name, preset_summary(name)) for name in preset_names()])


def _print_explanation(key: str) -> None:
    from agentlightning.verl.config.explain import explain

    found = explain(key)
    typer.echo(found.key)
    _print_rows(list(found.rows))
    if found.below:
        typer.echo()
        _print_rows([(name.removeprefix(f"{found.key}."), text) for name, text in found.below])


def _print_rows(rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table: Any = Table(show_header=False, box=None, padding=(0, 2, 0, 2 if console.is_terminal else 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    if not console.is_terminal:
        console.width = 160
    console.print(table)
