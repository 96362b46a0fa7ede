"""What a finished run came to, from its metrics."""

from __future__ import annotations

from agentlightning.report.run import summarise


def test_times_add_up_to_those_of_all_phases() -> None:
    history = [
        {"step": 0, "val/reward": 0.25, "timing_s/testing": 1.0},
        {"step": 1, "timing_s/gen": 4.0, "timing_s/values": 0.5, "timing_s/ref": 0.5, "timing_s/update_critic": 2.0},
        {"step": 2, "timing_s/gen": 4.0, "timing_s/update_actor": 3.0, "val/reward": 0.75},
    ]
    found = summarise(history)
    assert found["wall_s_by_phase"] == {"rollouts": 8.0, "log-probs": 1.0, "update": 5.0, "validation": 1.0}
    assert found["wall_s"] == 15.0
    assert (found["val_reward_before"], found["val_reward_after"], found["steps"]) == (0.25, 0.75, 2)


def test_several_policies_add_up() -> None:
    row = {
        "step": 1,
        "timing_s/gen": 4.0,
        "planner/timing_s/adv": 0.25,
        "worker/timing_s/adv": 0.25,
        "planner/timing_s/update_actor": 1.0,
        "worker/timing_s/update_actor": 2.0,
        "planner/perf/total_num_tokens": 10.0,
        "worker/perf/total_num_tokens": 20.0,
        "perf/total_num_tokens": 30.0,
        "training/n_rollouts": 4.0,
    }
    found = summarise([row, row])
    assert found["wall_s_by_phase"] == {"rollouts": 8.0, "advantages": 1.0, "update": 6.0}
    assert (found["tokens"], found["rollouts"]) == (60, 8)
