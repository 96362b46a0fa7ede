"""Prompt and weights of the calculator agent, made better in turn.

    export OPENAI_API_KEY=... OPENAI_BASE_URL=...          # critic and editor: any OpenAI-compatible endpoint
    python -m examples.calc.alternate --run both

The model is the tiny one of `train.py`, which knows bare questions; here it gets a prompt around them. First the prompt
is tuned with the weights as they are, then the weights are trained with the best prompt, and once more. One store holds
all of it; a run that was killed goes on with `--resume`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import openai

import agentlightning as agl
from agentlightning.algorithm.data import load_dataset

from .agent import answer_in, solve
from .train import RL, THREADS, make_data, warm_start

START = "Here is a word problem. Read it with care, then say what comes out: {question}"


@agl.rollout
def prompted_calc_agent(task: dict[str, Any], resources: agl.NamedResources) -> float:
    """Solve one problem, asked in the words of the prompt; 1.0 where the answer is right, else 0.0."""
    llm, prompt = resources["main_llm"], resources["prompt"]
    assert isinstance(llm, agl.LLM)
    assert isinstance(prompt, agl.PromptTemplate)
    said = solve(prompt.format(question=task["question"]), llm)
    number = answer_in(said)
    right = number is not None and abs(number - task["answer"]) < 1e-6
    if not right:
        agl.emit_message(f"The answer is {task['answer']}, and the agent said: {said or 'nothing'}")
    return float(right)


def algorithm(model: str, client: Any, args: argparse.Namespace, test: list[Any]) -> agl.Sequence:
    """Both, in turn."""
    apo = agl.APO(
        client=client,
        preset="auto",
        gradient_model=args.critic,
        apply_edit_model=args.critic,
        budget=args.budget,
        test_dataset=test,
        seed=args.seed,
    )
    settings = {
        "actor_rollout_ref.model.path": model,
        "agentlightning.seed": args.seed,
        "agentlightning.threads": THREADS,
        "trainer.total_training_steps": args.steps * args.rounds,
        "data.max_prompt_length": 256,
    }
    return agl.Sequence([apo, agl.VERL({**RL, **settings})], rounds=args.rounds)


def main() -> None:
    args = parse_args()
    client = openai.AsyncOpenAI()  # before minutes of work: it refuses where there is no key
    data, directory = Path(args.runs_dir) / f"{args.run}-data", Path(args.runs_dir) / args.run
    if not (data / "train.jsonl").exists():
        make_data(data, args.seed)
    train, val, test = (load_dataset(data / f"{split}.jsonl") for split in ("train", "val", "test"))
    model = args.model or str(data / "warm_start")
    if args.model is None and not (data / "warm_start").exists():
        warm_start(data, train, args.seed)
    both = algorithm(model, client, args, test[: args.test])
    trainer = agl.Trainer(
        algorithm=both,
        n_runners=args.runners,
        run_dir=directory,
        initial_resources={"prompt": agl.PromptTemplate(template=START, input_keys=["question"])},
    )
    trainer.fit(prompted_calc_agent, train, val_dataset=val[: args.val], resume=args.resume)
    print(f"prompt: {both.tuned_resources()['prompt'].template}")  # type: ignore[union-attr]  # it is a prompt


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.calc.alternate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", default="calc-alternate", help="name of the run (default calc-alternate)")
    parser.add_argument("--runs-dir", default="runs", help="where runs live (default runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with an existing run")
    parser.add_argument("--model", default=None, help="start from this model instead of a tiny one made here")
    parser.add_argument("--critic", default="gpt-4.1-mini", help="model that criticises and rewrites the prompt")
    parser.add_argument("--budget", type=int, default=400, help="rollouts for the prompt, each turn (default 400)")
    parser.add_argument("--steps", type=int, default=20, help="training steps, each turn (default 20)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--val", type=int, default=64, help="validation problems (default 64)")
    parser.add_argument("--test", type=int, default=64, help="held-out problems (default 64)")
    parser.add_argument("--runners", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
