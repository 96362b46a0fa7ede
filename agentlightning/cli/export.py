"""`agl export`: a checkpoint's policy as a directory that anybody can load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from agentlightning.learner.layout import ADAPTER, STATE, WEIGHTS, latest_checkpoint
from agentlightning.types import ConfigError, ModelError


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A `global_step_N`, or a run's directory: its newest checkpoint."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Directory to write; must not exist.")],
    *,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Only the LoRA adapter, in peft's layout, not merged into its base.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which policy, where a run trained several.")
    ] = None,
) -> None:
    """Write a trained model as a plain Hugging Face directory.

    The result needs nothing of ours: weights in safetensors, `config.json`, tokenizer and chat template. What was
    trained with LoRA is merged into its base.

    ```
    agl export runs/first my-model               # its newest checkpoint
    agl export runs/first my-adapter --adapter   # the adapter, for peft or vLLM
    agl export runs/first/checkpoints/global_step_40 at-40
    ```

    Then `AutoModelForCausalLM.from_pretrained("my-model")`, `vllm serve my-model` or `agl serve my-model`; an adapter
    goes onto the model that it was trained on: `PeftModel.from_pretrained(base, "my-adapter")`.
    """
    step = _checkpoint(checkpoint)
    source = _part(_actor(step, policy), adapter=adapter)
    _copy(source, output)
    typer.echo(f"{'adapter' if adapter else 'model'} of {step.name}: {output}")


def _checkpoint(path: Path) -> Path:
    """The `global_step_N` that is meant by `path`."""
    if (path / STATE).is_file():
        return path
    for directory in (path, path / "checkpoints"):
        if (found := latest_checkpoint(directory)) is not None:
            return found
    raise ModelError(f"`{path}` is no checkpoint: give a `global_step_N`, or the directory of a run that saved one")


def _actors(step: Path) -> dict[str, Path]:
    """The folder of each policy; the only one of a run has no name."""
    if (step / "actor").is_dir():
        return {"": step / "actor"}
    return {path.parent.name: path for path in sorted(step.glob("*/actor"))}


def _actor(step: Path, policy: str | None) -> Path:
    actors = _actors(step)
    if policy in actors:
        return actors[policy]
    if policy is None and len(actors) == 1:
        return next(iter(actors.values()))
    names = ", ".join(actors)
    if not names:
        raise ConfigError(f"`--policy {policy}`: `{step}` holds one policy without a name; leave the option out")
    raise ConfigError(f"`{step}` holds the policies {names}: name one with `--policy`, got {policy}")


def _part(actor: Path, *, adapter: bool) -> Path:
    source = actor / (ADAPTER if adapter else WEIGHTS)
    if adapter and not source.is_dir():
        raise ConfigError(f"`{actor}` holds no adapter: all weights were trained; leave out `--adapter`")
    config = source / ("adapter_config.json" if adapter else "config.json")
    if not config.is_file() or not any(source.glob("*.safetensors")):
        raise ModelError(f"`{source}` is incomplete: it needs `{config.name}` and a `.safetensors` file")
    return source


def _copy(source: Path, output: Path) -> None:
    """All of it or nothing."""
    if output.exists():
        raise ConfigError(f"`{output}` exists; give another OUTPUT, or delete it")
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(output)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(f"can't write `{output}`: {error}") from error
