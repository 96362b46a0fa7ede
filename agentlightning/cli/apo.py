"""`agl apo`: tune an agent's prompts from the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlightning.types import ConfigError, PromptTemplate
from agentlightning.types.templates import Engine

from .target import load_agent
from .train import run_directory

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy

_ENGINES: dict[str, Engine] = {".j2": "jinja", ".jinja": "jinja", ".jinja2": "jinja", ".poml": "poml"}


def apo(
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="The agent, as `my_agent:agent` or `path/to/file.py:agent`.")
    ],
    *,
    run: Annotated[str, typer.Option(metavar="NAME", help="Name of the run; its files go to `RUNS_DIR/NAME`.")],
    prompt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The prompt to begin with: `{name}` in .txt, Jinja in .j2, POML in .poml."),
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Instead: several prompts by name, which are tuned together."),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Tasks that critic and editor learn from: .jsonl, .json or .parquet."),
    ] = None,
    val: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Tasks by which the best is chosen. Default: half of the train tasks."),
    ] = None,
    test: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Tasks for the honest result: start and best are compared on them at the end."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="`auto`, `gepa`, `protegi`, or `documented`: see docs/apo.md.")
    ] = "auto",
    rounds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many. Default: the preset's.")
    ] = None,
    budget_rollouts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rollouts of the agent, those of the report included.")
    ] = None,
    budget_calls: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Requests to LLMs, of all parts.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens, in and out, of all parts.")
    ] = None,
    budget_cost: Annotated[
        float | None, typer.Option(metavar="DOLLARS", min=0, help="Needs `--price` for each model.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=IN,OUT", help="Dollars for a million input and output tokens of a model."),
    ] = None,
    llm_endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The agent's LLM, an OpenAI-compatible endpoint; key: OPENAI_API_KEY."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask for at `--llm-endpoint`.")] = None,
    critic_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Of critic and editor; key: CRITIC_API_KEY, else OPENAI_API_KEY. Default: `--llm-endpoint`, "
            "else OPENAI_BASE_URL.",
        ),
    ] = None,
    critic_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Says what is wrong. Default: `--model`, else gpt-5-mini.")
    ] = None,
    editor_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Rewrites the prompt. Default: `--critic-model`.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this name; pays nothing twice.")
    ] = False,
    runners: Annotated[int, typer.Option(metavar="N", min=1, help="Runners: workers that execute rollouts.")] = 1,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Rollouts at once in each runner.")] = 8,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 42,
    runs_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are kept.")] = Path("runs"),
) -> None:
    """Tune an agent's prompts with a critic and an editor: no GPU, any OpenAI-compatible endpoint.

    The agent runs on the train tasks, a critic says what is wrong with the prompt, an editor rewrites it, and what does
    better on the validation tasks stays. The agent takes the prompt as `prompt_template`, its LLM as `llm`:

    ```
    agl apo my_agent:agent --prompt prompt.txt --run first \\
        --train train.jsonl --val val.jsonl --test test.jsonl \\
        --llm-endpoint https://api.openai.com/v1 --model gpt-4.1-mini \\
        --critic-model gpt-5-mini --budget-rollouts 600
    ```

    The best prompt is `runs/first/apo/best_prompt.txt` from the first round on, the report `report.html` beside it. A
    run that was stopped goes on with the same command and `--resume`.

    What the critic reads of a failure decides how good its advice is: let the agent say what went wrong with
    `agl.emit_message(...)`. Without `--llm-endpoint` the agent finds its LLM by itself; the critic then doesn't see its
    calls, and limits on calls, tokens and cost are refused.
    """
    from agentlightning.algorithm.apo import APO
    from agentlightning.algorithm.data import load_dataset
    from agentlightning.trainer import Trainer

    run_dir = run_directory(runs_dir, run, resume)
    lit_agent = load_agent(agent)
    asked = critic_model or model
    models = {"gradient_model": asked, "apply_edit_model": editor_model or asked}
    learning = APO(
        _client(critic_endpoint, llm_endpoint),
        preset=preset,
        **{name: each for name, each in models.items() if each is not None},  # type: ignore[arg-type]
        budget=_budget(budget_rollouts, budget_calls, budget_tokens, budget_cost, price or ()),
        test_dataset=load_dataset(test) if test else None,
        seed=seed,
    )
    trainer = Trainer(
        algorithm=learning,
        n_runners=runners,
        max_concurrency=concurrency,
        max_iterations=rounds,
        initial_resources=_prompts(prompt, resource or ()),
        llm_proxy=_gateway(llm_endpoint, model),
        run_dir=run_dir,
    )
    train_dataset, val_dataset = (load_dataset(files) if files else None for files in (train, val))
    try:
        trainer.fit(lit_agent, train_dataset, val_dataset=val_dataset, resume=resume)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command with `--resume` goes on with `{run_dir}`", err=True)
        raise
    typer.echo(f"run: {run_dir}")
    typer.echo(f"report: {run_dir / 'apo' / 'report.html'}")


def _prompts(prompt: Path | None, resources: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """The prompts to begin with, by resource name."""
    if (prompt is None) == (not resources):
        raise ConfigError("give the prompt with `--prompt FILE`, or several with `--resource NAME=FILE` each")
    if prompt is not None:
        return {"prompt": _template(prompt, "--prompt")}
    found: dict[str, Any] = {}
    for each in resources:
        name, equals, file = each.partition("=")
        if not name or not equals or not file:
            raise ConfigError(f"`--resource` is NAME=FILE, as in `--resource planner=planner.txt`; got `{each}`")
        if name in found:
            raise ConfigError(f"`--resource` names `{name}` twice; each prompt needs a name of its own")
        found[name] = _template(Path(file), "--resource")
    return found


def _template(file: Path, option: str) -> PromptTemplate:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{option}`: {file} can't be read: {error}") from error
    if not text.strip():
        raise ConfigError(f"`{option}`: {file} is empty; write the prompt to begin with into it")
    return PromptTemplate(template=text.rstrip("\n"), engine=_ENGINES.get(file.suffix, "f-string"))


def _client(own: str | None, agents: str | None) -> Any:
    """For critic and editor, at an endpoint of their own or the agent's; `None`: `APO` asks the environment."""
    if own is None and agents is None:
        return None
    try:
        import openai
    except ModuleNotFoundError as error:
        raise ConfigError("`agl apo` needs openai: pip install 'agentlightning[apo]'") from error
    keys = [os.environ.get(name) for name in (("CRITIC_API_KEY",) if own else ()) + ("OPENAI_API_KEY",)]
    return openai.AsyncOpenAI(base_url=own or agents, api_key=next(filter(None, keys), "none"))


def _gateway(endpoint: str | None, model: str | None) -> LLMProxy | None:
    if (endpoint is None) != (model is None):
        raise ConfigError("`--llm-endpoint URL` and `--model NAME` go together")
    if endpoint is None:
        return None
    from agentlightning.llm_proxy import LLMProxy

    params = {"model": f"openai/{model}", "api_base": endpoint, "api_key": os.environ.get("OPENAI_API_KEY")}
    return LLMProxy(model_list=[{"model_name": model, "litellm_params": params}])


def _budget(
    rollouts: int | None, calls: int | None, tokens: int | None, cost: float | None, prices: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    return {
        "rollouts": rollouts,
        "llm_calls": calls,
        "tokens": tokens,
        "cost": cost,
        "prices": dict(_price(each) for each in prices),
    }


def _price(text: str) -> tuple[str, tuple[float, float]]:
    model, _, numbers = text.rpartition("=")
    try:
        per_input, per_output = (float(number) for number in numbers.split(","))
    except ValueError as error:
        raise ConfigError(f"`--price` is MODEL=IN,OUT, as in `--price gpt-5-mini=0.25,2`; got `{text}`") from error
    return model, (per_input, per_output)
