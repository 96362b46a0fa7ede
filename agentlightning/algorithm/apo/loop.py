"""The loop of prompt optimisation: parents, children, gate, evaluation, archive. `apo.APO` calls it.

A round works in phases, and each phase is one call for all candidates: runners stay busy, and no decision depends on
who finished first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .batches import Batches, deal
from .budget import BudgetSpent
from .candidate import Candidate
from .outcome import Place
from .plan import Plan
from .state import Round, State
from .strategies.base import Job


async def optimise(state: State, plan: Plan, *, on_round: Callable[[State], None] = lambda state: None) -> str:
    """Run rounds until they are over, the budget is spent or the plan says so. `state.best` is the result.

    Args:
        state: With the start as its only candidate.
        plan: The strategies.
        on_round: Called after every round, an incomplete last one included.

    Returns:
        Why it ended.
    """
    start = state.candidates[0]
    state.best, state.archive = start, [start]
    try:
        reason = await _rounds(state, plan, on_round)
    except BudgetSpent as spent:
        reason = str(spent)
    state.best = await plan.evaluator.finish(state)
    _note(state)
    on_round(state)
    return reason


async def _rounds(state: State, plan: Plan, on_round: Callable[[State], None]) -> str:
    batches = None
    if plan.proposer.batch_size:
        batches = Batches(state.trials.size("train"), plan.proposer.batch_size, lambda epoch: state.rng("train", epoch))
    if plan.validate_start:
        await state.trials.run([(state.candidates[0], place) for place in state.all_places("val")])
    while state.round < plan.rounds:
        if (reason := plan.stopper.reason(state)) is not None:
            return reason
        state.rounds.append(Round(state.round + 1))
        await _round(state, plan, batches)
        _note(state)
        on_round(state)
    return f"{plan.rounds} rounds are done"


async def _round(state: State, plan: Plan, batches: Batches | None) -> None:
    jobs = await _jobs(state, plan, batches)
    proposals = await plan.proposer.propose(state, jobs)
    pairs: list[tuple[Job, Candidate]] = []
    for job, proposal in zip(jobs, proposals, strict=True):
        if proposal is not None and (child := state.admit(proposal)) is not None:
            pairs.append((job, child))
    passed = await plan.gate.passed(state, pairs)
    state.rounds[-1].gated = [candidate.id for candidate in passed]
    state.best = await plan.evaluator.evaluate(state, passed)
    state.archive = plan.selector.keep(state, passed)


async def _jobs(state: State, plan: Plan, batches: Batches | None) -> list[Job]:
    """The children to make, each parent tried on the train tasks of each of them."""
    parents = plan.selector.parents(state)
    if batches is None:
        return [Job(number, parent, _component(state, number), ()) for number, parent in enumerate(parents)]
    dealt = deal(batches, [parent.id for parent in parents], plan.share)
    tried = [[(parent, Place("train", task)) for task in own] for parent, own in zip(parents, dealt, strict=True)]
    while len(tried) > 1 and state.trials.new([each for own in tried for each in own]) > state.trials.room():
        tried.pop()  # of a round that can't be paid whole, what can
    rest = iter(await state.trials.run([each for own in tried for each in own]))
    return [
        Job(number, parent, _component(state, number), [next(rest) for _ in own])
        for number, (parent, own) in enumerate(zip(parents, tried, strict=False))
    ]


def _component(state: State, number: int) -> str:
    """Prompts take turns: over the rounds, and among the children of one."""
    names: Sequence[str] = sorted(state.start)
    return names[(state.round - 1 + number) % len(names)]


def _note(state: State) -> None:
    """Write down how a round ended."""
    if not state.rounds:
        return
    now = state.rounds[-1]
    now.archive = [candidate.id for candidate in state.archive]
    if state.best is not None:
        now.best, now.best_score = state.best.id, state.mean(state.best) or 0.0
    now.rollouts = state.ledger.spent.rollouts
