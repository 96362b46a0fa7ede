"""Any adapter on the training path: what it makes of a rollout's spans becomes an `Episode`.

Called by `VERL`, which hands the result to the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from agentlightning.types import ConfigError, Episode, Span, TokenCall, Triplet, Turn

from .graph import TokenGraph
from .trajectory import Retokenize, TraceToEpisodes, backend_failures, episode_from_spans, missing_token_ids

EpisodeAdapter = Callable[[Sequence[Span], str], Episode]
"""(spans of one attempt, rollout id) -> episode."""


def episode_adapter(adapter: Any, model: str, retokenize: Retokenize | None = None) -> EpisodeAdapter:
    """The given adapter as the training loop calls it.

    Args:
        adapter: `None` for `episode_from_spans`; a `TraceToEpisodes`; or any adapter or function of a rollout's spans
            that returns an `Episode` or a list of `Triplet`s, such as `TracerTraceToTriplet(agent_match="planner")`.
        model: Name of the policy in training: calls of other models are left out.
        retokenize: See `episode_from_spans`. Only the first two kinds of adapters can do it.

    Raises:
        ConfigError: `adapter` can't be called or retokenize; or, from the adapter returned, it gave something else.
    """
    if adapter is None:
        return lambda spans, rollout_id: episode_from_spans(spans, rollout_id, model, retokenize)
    if isinstance(adapter, TraceToEpisodes):
        adapter.model, adapter.retokenize = model, retokenize
        return adapter.episode
    if retokenize is not None:
        raise ConfigError(
            f"`agentlightning.retokenize` is true, and the `adapter` is a {type(adapter).__name__}, which takes token "
            "ids from spans only; leave one of them out, or derive the adapter from `TraceToEpisodes`"
        )
    if not callable(adapter):
        raise ConfigError(
            f"`adapter` is a {type(adapter).__name__}; give an adapter, or a function from spans to an `Episode`"
        )

    def adapt(spans: Sequence[Span], rollout_id: str) -> Episode:
        if not spans:
            return Episode(rollout_id, [], [], None)
        made = adapter(spans)
        if isinstance(made, Episode):
            return made
        if isinstance(made, list) and all(isinstance(item, Triplet) for item in cast("list[Any]", made)):
            return episode_from_triplets(cast("list[Triplet]", made), spans, rollout_id, model)
        raise ConfigError(
            f"`adapter` ({type(adapter).__name__}) returned a {type(made).__name__}; training needs an `Episode` or a "
            "list of `Triplet`s of one rollout"
        )

    return adapt


def episode_from_triplets(triplets: Sequence[Triplet], spans: Sequence[Span], rollout_id: str, model: str) -> Episode:
    """The episode whose turns are `triplets`, and whose reward is that of the last one that has a reward.

    Args:
        triplets: Of one rollout, in order. Those of another model (`metadata["model"]`) are left out.
        spans: What they were made of: calls without token ids are counted there.
        rollout_id: Whose they are.
        model: Name of the policy in training.

    Raises:
        ConfigError: a triplet has no lists of token ids.
    """
    own = [triplet for triplet in triplets if triplet.metadata.get("model", model) == model]
    known = [triplet for triplet in own if _ids(triplet, "response")]
    trajectories, calls = (graph := TokenGraph(_call(triplet, model) for triplet in known)).assemble()
    agents = [triplet.metadata.get("agent_name") for triplet in known]
    rewards = [triplet.reward for triplet in own if triplet.reward is not None]
    return Episode(
        rollout_id=rollout_id,
        turns=[
            Turn(call, triplet.reward, None if agent == "*" else agent)
            for call, triplet, agent in zip(calls, known, agents, strict=True)
        ],
        trajectories=trajectories,
        reward=rewards[-1] if rewards else None,
        prefix_breaks=graph.breaks,
        missing_token_ids=missing_token_ids(spans, model),
        backend_failures=backend_failures(spans, model),
    )


def _call(triplet: Triplet, model: str) -> TokenCall:
    about, logprobs = triplet.metadata, triplet.response.get("logprobs")
    return TokenCall(
        model=model,
        prompt_ids=np.array(_ids(triplet, "prompt"), np.int32),
        response_ids=np.array(_ids(triplet, "response"), np.int32),
        logprobs=None if logprobs is None else np.array(logprobs, np.float32),
        finish_reason=about.get("finish_reason", "stop"),
        weights_version=about.get("weights_version", 0),
        temperature=about.get("temperature", 1.0),
    )


def _ids(triplet: Triplet, side: str) -> list[int]:
    value = getattr(triplet, side)
    ids = cast("dict[str, Any]", value).get("token_ids") if isinstance(value, dict) else None
    if not isinstance(ids, list):
        raise ConfigError(
            f"a triplet's `{side}` has no list `token_ids`: {value!r:.100}; training needs exact tokens, as "
            "`TracerTraceToTriplet` and `LlmProxyTraceToTriplet` give them"
        )
    return cast("list[int]", ids)
