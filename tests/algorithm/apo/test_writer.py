"""Critic and editor are asked over HTTP with the real clients; what they cost is counted, what they said remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response

from agentlightning.algorithm.apo.budget import Budget, BudgetSpent, Ledger
from agentlightning.algorithm.apo.writer import Reply, Writer
from agentlightning.algorithm.apo.written import Request
from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.types import AgentLightningError, ConfigError
from tests.endpoint import Body, Endpoint, asked, completion, in_turn, refusal, serving


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LightningStore]:
    home = SqlLightningStore(tmp_path / "store.sqlite")
    yield home
    await home.close()


def make(client: Any, store: LightningStore, budget: Budget | None = None, **options: Any) -> tuple[Writer, Ledger]:
    ledger = Ledger(budget)
    return Writer(client, store, ledger, **{"backoff": 0.001, **options}), ledger


def request(text: str = "hello", slot: str = "1/0", model: str = "m") -> Request:
    return Request("critic", model, [{"role": "user", "content": text}], slot)


def echo(body: Body) -> str:
    return f"re: {asked(body)}"


# -- asking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "sync_client"])
async def test_replies_come_in_order_and_at_the_same_time(kind: str, store: LightningStore) -> None:
    together = asyncio.Event()

    async def answer(body: Body) -> str:
        if endpoint.running == 4:
            together.set()
        await together.wait()
        return echo(body)

    async with serving(answer) as endpoint:
        writer, ledger = make(getattr(endpoint, kind)(), store, concurrency=4)
        replies = await writer.ask([request(str(n)) for n in range(8)])
        assert replies == [Reply(f"re: {n}") for n in range(8)]
        assert endpoint.most == 4
        assert (ledger.spent.writer_calls, ledger.spent.input_tokens, ledger.spent.output_tokens) == (8, 24, 40)


async def test_the_same_request_is_paid_once_and_in_another_slot_again(store: LightningStore) -> None:
    async with serving(echo) as endpoint:
        writer, _ = make(endpoint.client(), store)
        await writer.ask([request(), request(), request(slot="1/1")])
        await writer.ask([request()])
        assert len(endpoint.bodies) == 2
        assert len({body["seed"] for body in endpoint.bodies}) == 2


async def test_another_seed_or_temperature_is_another_sample(store: LightningStore) -> None:
    async with serving(echo) as endpoint:
        for options in ({"seed": 1}, {"seed": 2}, {"seed": 2, "temperature": None}):
            writer, _ = make(endpoint.client(), store, **options)
            await writer.load()
            await writer.ask([request()])
        assert len(endpoint.bodies) == 3
        assert len({body["seed"] for body in endpoint.bodies}) == 3
        assert [body.get("temperature") for body in endpoint.bodies] == [1.0, 1.0, None]
        assert all("max_tokens" not in body for body in endpoint.bodies)


async def test_thoughts_are_no_part_of_a_reply_and_a_cut_one_says_so(store: LightningStore) -> None:
    cut = completion("<think>hm\nhm</think>\n half a pro", finish="length")
    async with serving(in_turn(cut)) as endpoint:
        writer, _ = make(endpoint.client(), store)
        assert await writer.ask([request()]) == [Reply("half a pro", cut=True)]


async def test_half_a_surrogate_pair_does_no_harm(store: LightningStore) -> None:
    body = b'{"choices": [{"message": {"role": "assistant", "content": "a \\ud83d b"}}]}'
    async with serving(in_turn(Response(body, media_type="application/json"))) as endpoint:
        writer, _ = make(endpoint.client(), store)
        assert await writer.ask([request()]) == [Reply("a ? b")]


async def test_an_endpoint_that_counts_no_tokens_has_them_counted_by_bytes(store: LightningStore) -> None:
    async with serving(in_turn(completion("x" * 40, usage=False))) as endpoint:
        writer, ledger = make(endpoint.client(), store)
        await writer.ask([request("y" * 20)])
        assert (ledger.spent.input_tokens, ledger.spent.output_tokens) == (5, 10)


async def test_what_is_no_client_is_refused(store: LightningStore) -> None:
    with pytest.raises(ConfigError, match=r"`client` must be an `openai\.OpenAI`"):
        make(object(), store)


async def test_one_client_serves_one_event_loop_after_the_other(tmp_path: Path) -> None:
    """As when a user calls `fit` twice with the same algorithm."""

    async def once(slot: str) -> list[Reply | None]:
        store = SqlLightningStore(tmp_path / f"{slot}.sqlite")
        writer, _ = make(client, store)
        replies = await writer.ask([request(slot=slot)])
        await store.close()
        return replies

    async with serving(echo) as endpoint:
        client = endpoint.client()
        for slot in ("1", "2"):
            assert await asyncio.to_thread(asyncio.run, once(slot)) == [Reply("re: hello")]


# -- faults ---------------------------------------------------------------------------------------------------------

BAD_JSON = Response(b'{"choices": [', media_type="application/json")
FAULTS = {
    "too many requests": ("rate_limit", refusal(429)),
    "server error": ("server", refusal(500)),
    "empty text": ("empty", completion("")),
    "page of a proxy": ("malformed", PlainTextResponse("<html>502</html>")),
    "bad json": ("malformed", BAD_JSON),
    "no choices": ("empty", Response(b'{"choices": []}', media_type="application/json")),
    "null": ("malformed", Response(b"null", media_type="application/json")),
    "thoughts alone": ("empty", completion("<think>hm</think>")),
}


@pytest.mark.parametrize("client", ["client", "sync_client"])
async def test_after_a_fault_the_request_is_sent_again(client: str, store: LightningStore) -> None:
    async with serving(lambda body: "never") as endpoint:
        writer, ledger = make(getattr(endpoint, client)(), store)
        for number, (name, (kind, fault)) in enumerate(FAULTS.items(), 1):
            endpoint.answer = in_turn(fault, "fine")
            ledger.spent.errors.clear()
            assert await writer.ask([request(name)]) == [Reply("fine")]
            assert ledger.spent.errors == {kind: 1}, name
            assert (ledger.spent.retries, ledger.spent.llm_calls, len(endpoint.bodies)) == (
                number,
                2 * number,
                2 * number,
            )


async def test_a_reply_that_does_not_come_is_asked_for_again(store: LightningStore) -> None:
    async def late(body: Body) -> Any:
        if len(endpoint.bodies) == 1:
            return await endpoint.silence()
        return "fine"

    async with serving(late) as endpoint:
        writer, ledger = make(endpoint.client(), store, timeout=0.5)
        assert await writer.ask([request()]) == [Reply("fine")]
        assert ledger.spent.errors == {"timeout": 1}


async def test_an_endpoint_that_is_away_for_a_while_is_waited_for(store: LightningStore) -> None:
    endpoint = Endpoint(echo)
    await endpoint.start()
    client = endpoint.client()
    port = endpoint._server.port
    await endpoint.stop()
    writer, ledger = make(client, store, backoff=0.2, max_retries=20)
    asking = asyncio.create_task(writer.ask([request()]))
    while not ledger.spent.errors:  # noqa: ASYNC110  # a dictionary
        await asyncio.sleep(0.01)
    endpoint._server._wanted_port = port  # type: ignore[attr-defined]
    await endpoint.start()
    assert await asking == [Reply("re: hello")]
    assert set(ledger.spent.errors) == {"connection"}
    assert ledger.spent.tokens == 8
    await endpoint.stop()


async def test_the_endpoint_says_how_long_to_wait(store: LightningStore) -> None:
    times: list[float] = []

    def answer(body: Body) -> Any:
        times.append(time.monotonic())
        return refusal(429, headers={"retry-after": "0.4"}) if len(times) == 1 else "fine"

    async with serving(answer) as endpoint:
        writer, _ = make(endpoint.client(), store)
        await writer.ask([request()])
    assert times[1] - times[0] >= 0.4


@pytest.mark.parametrize("when", ["Thu, 01 Jan 99999999999 00:00:00 GMT", "nan", "-5", "soon"])
async def test_a_wait_that_makes_no_sense_is_passed_over(when: str, store: LightningStore) -> None:
    async with serving(in_turn(refusal(429, headers={"retry-after": when}), "fine")) as endpoint:
        writer, _ = make(endpoint.client(), store)
        assert await writer.ask([request()]) == [Reply("fine")]


async def test_a_request_that_fails_for_good_is_none_and_the_others_go_on(store: LightningStore) -> None:
    def answer(body: Body) -> Any:
        return refusal(503) if asked(body) == "bad" else echo(body)

    async with serving(answer) as endpoint:
        writer, ledger = make(endpoint.client(), store, max_retries=2)
        assert await writer.ask([request("bad"), request("good")]) == [None, Reply("re: good")]
        assert ledger.spent.errors == {"server": 3}
        assert len(endpoint.bodies) == 4


async def test_an_answer_that_stays_empty_is_given_up_early_and_asked_for_with_other_seeds(
    store: LightningStore,
) -> None:
    async with serving(in_turn(completion(None))) as endpoint:
        writer, _ = make(endpoint.client(), store)
        assert await writer.ask([request()]) == [None]
        assert len({body["seed"] for body in endpoint.bodies}) == len(endpoint.bodies) == 3


async def test_a_refused_request_is_not_sent_again(store: LightningStore) -> None:
    async with serving(in_turn(refusal(400, "the context is too long"), "fine")) as endpoint:
        writer, ledger = make(endpoint.client(), store)
        assert await writer.ask([request("long")]) == [None]
        assert await writer.ask([request("short")]) == [Reply("fine")]
        assert ledger.spent.errors == {"refused": 1}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0.5 with this model."),
        ("seed", "Unrecognized request argument supplied: seed"),
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ],
)
async def test_an_option_that_a_model_refuses_is_left_out_from_then_on(
    option: str, message: str, store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(body: Body) -> Any:
        refused = option in body and body["model"] == "picky"
        return refusal(400, message, param=option, code="unsupported_value") if refused else "fine"

    async with serving(answer) as endpoint:
        writer, _ = make(endpoint.client(), store, temperature=0.5, max_tokens=77)
        both = [request(str(n), model=model) for n in range(4) for model in ("picky", "easy")]
        assert await writer.ask(both) == [Reply("fine")] * 8
        endpoint.bodies.clear()
        assert (
            await writer.ask([request(slot="2/0", model="picky"), request(slot="2/1", model="easy")])
            == [Reply("fine")] * 2
        )
        assert [option in body for body in sorted(endpoint.bodies, key=lambda body: body["model"])] == [True, False]
        assert len([record for record in caplog.records if "left out from now on" in record.message]) == 1
        if option == "max_tokens":
            assert {body.get("max_completion_tokens") for body in endpoint.bodies} == {77, None}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusal(401, "Incorrect API key: sk-secret"), "does not accept the client's `api_key`"),
        (refusal(402, "Insufficient balance of sk-secret"), "has no credit left"),
        (refusal(403, "sk-secret"), "does not allow"),
        (refusal(404, "The model `m` does not exist"), "check the model's name and the client's `base_url`"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "has no quota left"),
    ],
)
async def test_what_no_other_request_would_mend_ends_the_run_in_one_line(
    answer: Response, message: str, store: LightningStore
) -> None:
    async with serving(in_turn(answer)) as endpoint:
        writer, _ = make(endpoint.client(), store, concurrency=2)
        with pytest.raises(AgentLightningError, match=message) as raised:
            await writer.ask([request(str(n)) for n in range(40)])
        assert "\n" not in str(raised.value)
        assert "sk-secret" not in str(raised.value)
        assert len(endpoint.bodies) <= 2


async def test_an_endpoint_that_never_answers_ends_the_run(store: LightningStore) -> None:
    async with serving(in_turn(refusal(500))) as endpoint:
        writer, _ = make(endpoint.client(), store, max_retries=0)
        assert await writer.ask([request(str(n)) for n in range(10)]) == [None] * 10
        with pytest.raises(AgentLightningError, match=r"the last \d\d requests .* all failed: .*Error code: 500"):
            await writer.ask([request(str(n), "2/0") for n in range(30)])
        assert len(endpoint.bodies) <= 20 + 16


async def test_a_reply_beside_many_that_failed_does_not_hide_that_others_were_passed_over(
    store: LightningStore,
) -> None:
    async def answer(body: Body) -> Any:
        if asked(body) != "0":
            return refusal(400)
        while len(endpoint.bodies) < 21:  # noqa: ASYNC110  # counted elsewhere
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        return "late"

    async with serving(answer) as endpoint:
        writer, _ = make(endpoint.client(), store, concurrency=2)
        with pytest.raises(AgentLightningError, match="the last 20 requests"):
            await writer.ask([request(str(n)) for n in range(30)])


async def test_requests_that_ended_the_run_are_asked_again_by_one_that_goes_on(store: LightningStore) -> None:
    async with serving(in_turn(refusal(500))) as endpoint:
        writer, _ = make(endpoint.client(), store, max_retries=0)
        requests = [request(str(n)) for n in range(20)]
        with pytest.raises(AgentLightningError, match="go on with `resume`"):
            await writer.ask(requests)
        endpoint.answer = echo
        again, ledger = make(endpoint.client(), store, max_retries=0)
        await again.load()
        assert await again.ask(requests) == [Reply(f"re: {n}") for n in range(20)]
        assert (ledger.spent.llm_calls, ledger.spent.errors) == (40, {"server": 20})


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: {}. This model's maximum context length is 4096 tokens",
        "This model's maximum context length is 4096 tokens. However, you requested {} tokens in the completion.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 3000], not {}",
    ],
)
async def test_where_the_answer_may_not_be_so_long_a_shorter_one_is_asked_for(
    message: str, store: LightningStore
) -> None:
    def answer(body: Body) -> Any:
        longest = body["max_tokens"]
        return refusal(400, message.format(longest)) if longest > 3000 or asked(body) == "long" else "fine"

    async with serving(answer) as endpoint:
        writer, ledger = make(endpoint.client(), store, Budget(tokens=100_000), max_retries=1)
        assert await writer.ask([request()]) == [Reply("fine")]
        assert [body["max_tokens"] for body in endpoint.bodies] == [8192, 4096, 2048]
        assert ledger.spent.errors == {"length": 2}
        assert await writer.ask([request("long")]) == [None], "its prompt alone is too long"
        assert [body["max_tokens"] for body in endpoint.bodies[3:]] == [8192, 4096, 2048, 1024, 512, 256]
        assert await writer.ask([request("short")]) == [Reply("fine")]
        assert ledger.spent.llm_calls == len(endpoint.bodies)


# -- money ----------------------------------------------------------------------------------------------------------


async def test_calls_that_can_not_all_be_paid_are_not_begun(store: LightningStore) -> None:
    async with serving(echo) as endpoint:
        writer, ledger = make(endpoint.client(), store, Budget(llm_calls=3))
        with pytest.raises(BudgetSpent, match="`llm_calls` do not pay for 4 more calls"):
            await writer.ask([request(str(n)) for n in range(4)])
        assert endpoint.bodies == []
        await writer.ask([request(str(n)) for n in range(3)])
        assert ledger.spent.llm_calls == 3


async def test_retries_are_calls_too(store: LightningStore) -> None:
    async with serving(in_turn(refusal(500), refusal(500), "late")) as endpoint:
        writer, ledger = make(endpoint.client(), store, Budget(llm_calls=2))
        assert await writer.ask([request()]) == [None]
        assert len(endpoint.bodies) == ledger.spent.llm_calls == 2


@pytest.mark.parametrize("budget", [Budget(tokens=2000), Budget(cost=0.002, prices={"m": (1.0, 1.0)})])
async def test_a_limit_on_tokens_is_kept_and_used_up(budget: Budget, store: LightningStore) -> None:
    """Each call may take 400 and takes 8: many more are paid than fit at once, and the limit holds at each moment."""
    async with serving(echo) as endpoint:
        writer, ledger = make(endpoint.client(), store, budget, max_tokens=250)
        assert None not in await writer.ask([request(str(n)) for n in range(20)])
        assert endpoint.most <= 5
        assert ledger.spent.tokens == 160
        assert {body["max_tokens"] for body in endpoint.bodies} == {250}
        with pytest.raises(BudgetSpent, match=r"`(tokens|cost)` do not pay"):
            await writer.ask([request("x" * 3000)])


async def test_a_limit_on_tokens_bounds_answers_also_where_nobody_said_how_long_they_may_be(
    store: LightningStore,
) -> None:
    async with serving(echo) as endpoint:
        writer, _ = make(endpoint.client(), store, Budget(tokens=100_000))
        await writer.ask([request()])
        assert endpoint.bodies[0]["max_tokens"] == 8192


async def test_a_model_whose_answers_can_not_be_bounded_ends_a_run_with_a_limit_on_tokens(
    store: LightningStore,
) -> None:
    def answer(body: Body) -> Any:
        name = next((name for name in ("max_tokens", "max_completion_tokens") if name in body), None)
        return refusal(400, f"unknown argument {name}") if name else "fine"

    async with serving(answer) as endpoint:
        writer, _ = make(endpoint.client(), store, Budget(tokens=100_000))
        with pytest.raises(AgentLightningError, match="takes no limit of its answer's length"):
            await writer.ask([request()])


async def test_a_try_that_may_have_been_worked_on_counts_with_the_most(store: LightningStore) -> None:
    async with serving(in_turn(BAD_JSON, "fine")) as endpoint:
        writer, ledger = make(endpoint.client(), store, Budget(tokens=2000), max_tokens=250)
        await writer.ask([request()])
        assert ledger.spent.tokens == len("hello") + 16 + 128 + 250 + 8


# -- memory ---------------------------------------------------------------------------------------------------------


async def test_a_second_process_is_given_what_the_first_paid(store: LightningStore) -> None:
    def answer(body: Body) -> Any:
        if asked(body) == "bad":
            return refusal(400)
        return in_turn_answers(body)

    in_turn_answers = in_turn(refusal(500), completion("half", finish="length"), "whole", "never")
    async with serving(answer) as endpoint:
        wanted = [request("a"), request("b"), request("bad")]
        first, paid = make(endpoint.client(), store, concurrency=1)
        replies = await first.ask(wanted)
        assert replies == [Reply("half", cut=True), Reply("whole"), None]
        count = len(endpoint.bodies)
        second, again = make(endpoint.client(), store, concurrency=1)
        assert await second.load() == 3
        assert again.spent.llm_calls == 0
        assert await second.ask(wanted) == replies
        assert len(endpoint.bodies) == count
        assert again.spent == paid.spent


async def test_another_scope_has_another_memory(store: LightningStore) -> None:
    async with serving(echo) as endpoint:
        for scope in ("first", "second"):
            writer, _ = make(endpoint.client(), store, scope=scope)
            assert await writer.load() == 0
            await writer.ask([request()])
        assert len(endpoint.bodies) == 2


async def test_a_request_that_was_under_way_when_the_process_ended_is_sent_again_and_paid_twice(
    store: LightningStore,
) -> None:
    async def never(body: Body) -> Any:
        if len(endpoint.bodies) == 1:
            return refusal(500)
        return await endpoint.silence()

    async with serving(never) as endpoint:
        writer, _ = make(endpoint.client(), store, max_tokens=100)
        asking = asyncio.create_task(writer.ask([request()]))
        while len(endpoint.bodies) < 2:  # noqa: ASYNC110  # counted in the server's thread
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        endpoint.answer = echo
        for times in (1, 2):
            after, ledger = make(endpoint.client(), store, max_tokens=100)
            assert await after.load() == times
            assert await after.ask([request()]) == [Reply("re: hello")]
            # The fault, the try that nobody knows the end of (149 and 100 tokens at most), the one that came through.
            assert (ledger.spent.llm_calls, ledger.spent.tokens, ledger.spent.errors) == (3, 249 + 8, {"server": 1})
        assert len(endpoint.bodies) == 3


async def test_a_run_that_a_wrong_key_ended_goes_on_with_the_right_one(store: LightningStore) -> None:
    async with serving(in_turn(refusal(401), "fine")) as endpoint:
        writer, _ = make(endpoint.client(), store)
        with pytest.raises(AgentLightningError):
            await writer.ask([request()])
        again, ledger = make(endpoint.client(), store)
        await again.load()
        assert await again.ask([request()]) == [Reply("fine")]
        assert ledger.spent.llm_calls == 2


async def test_the_store_shows_what_was_asked_and_said(store: LightningStore) -> None:
    async with serving(echo) as endpoint:
        writer, _ = make(endpoint.client(), store)
        await writer.ask([request()])
    [rollout] = await store.query_rollouts()
    assert rollout.status == "succeeded"
    assert rollout.input == {"purpose": "critic", "model": "m", "messages": [{"role": "user", "content": "hello"}]}
    [span] = await store.query_spans(rollout.rollout_id)
    assert "re: hello" in str(span.attributes["gen_ai.output.messages"])
    assert "sk-secret" not in str([rollout.model_dump(), span.model_dump()])
