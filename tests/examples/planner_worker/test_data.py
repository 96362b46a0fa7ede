"""Orders, their splits, and the mistakes of the demonstrations."""

from __future__ import annotations

from collections import Counter

import pytest

from examples.planner_worker.data import CALLED, DOORS, ERROR_RATE, GOODS, PACKINGS, moves, orders, plans, split_of


def goods_of(request: str) -> tuple[str, str]:
    """The goods and the packing that a request names; exactly one each."""
    words = request.replace(".", "").replace(":", "").split()
    (goods,) = [word for word in words if any(word in known for known in GOODS.values())]
    (packing,) = [word for word in words if any(word in known for known in PACKINGS.values())]
    return goods, packing


def test_plan_and_door_follow_from_the_request() -> None:
    for row in orders("train", 200, seed=0):
        goods, packing = goods_of(row["request"])
        kind, size = row["plan"].split()
        assert goods in GOODS[kind]
        assert packing in PACKINGS[size]
        assert row["door"] == DOORS[kind, size]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_door_comes_equally_often(split: str) -> None:
    assert Counter(row["door"] for row in orders(split, 80, seed=1)) == dict.fromkeys("ABCDEFGH", 10)  # type: ignore[arg-type]


def test_goods_in_a_packing_are_in_one_split() -> None:
    seen = {
        split: {goods_of(row["request"]) for row in orders(split, 800, seed=2)}  # type: ignore[arg-type]
        for split in ("train", "val", "test")
    }
    assert all(split_of(*pair) == split for split, pairs in seen.items() for pair in pairs)
    assert not (seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"])


def test_orders_depend_on_the_seed_alone() -> None:
    assert orders("train", 20, seed=3) == orders("train", 20, seed=3) != orders("train", 20, seed=4)


def test_planners_err_in_two_kinds_and_always_in_the_same_way() -> None:
    rows = orders("train", 4000, seed=0)
    mistaken = Counter(
        row["plan"].split()[0] for row, (_, plan) in zip(rows, plans(rows, seed=0), strict=True) if plan != row["plan"]
    )
    assert set(mistaken) == set(CALLED)
    # 1,000 orders of each kind: the standard deviation is 15
    assert all(abs(count - 1000 * ERROR_RATE) < 60 for count in mistaken.values())
    for row, (request, plan) in zip(rows, plans(rows, seed=0), strict=True):
        kind, size = row["plan"].split()
        assert request == row["request"]
        assert plan in (row["plan"], f"{CALLED.get(kind, kind)} {size}")


def test_workers_err_with_big_goods_and_go_to_the_door_for_small_ones() -> None:
    taken: Counter[tuple[str, str]] = Counter(moves(8000, seed=0))
    for (kind, size), door in DOORS.items():
        if size == "small":
            assert taken[f"{kind} small", door] == 1000
        else:
            assert taken[f"{kind} big", door] + taken[f"{kind} big", DOORS[kind, "small"]] == 1000
            assert abs(taken[f"{kind} big", door] - 1000 * (1 - ERROR_RATE)) < 60
