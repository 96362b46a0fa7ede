"""`Trainer.dev` on eight trivial tasks, with each release's own defaults: seconds from the call to its return."""

from __future__ import annotations

import time

from common import PROMPT, report

import agentlightning as agl


class Plain(agl.LitAgent):
    def rollout(self, task, resources, rollout):
        return 1.0


def main() -> None:
    run = agl.Trainer(tracer=agl.OtelTracer(), initial_resources=PROMPT)
    begin = time.perf_counter()
    run.dev(Plain(), train_dataset=list(range(8)))
    report(dev_s=time.perf_counter() - begin)


if __name__ == "__main__":
    main()
