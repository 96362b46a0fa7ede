"""What `import` costs, and whose OpenTelemetry provider wins. In fresh interpreters."""

import subprocess
import sys


def run(code: str, **env: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_rooms_do_not_import_opentelemetry():
    rooms = ", ".join(
        f"agentlightning.{room}" for room in ("semconv", "tracer", "emitter", "litagent", "runner", "execution")
    )
    heavy = "('opentelemetry', 'torch', 'sqlalchemy', 'starlette', 'aiohttp')"
    assert run(f"import sys, {rooms}; print([m for m in sys.modules if m.startswith({heavy})])") == "[]"


AGENT = """
import asyncio
from opentelemetry import trace
{before}
from agentlightning.emitter import emit_reward
from agentlightning.tracer import OtelTracer

async def main():
    async with OtelTracer().trace_context() as found:
        trace.get_tracer("library").start_span("library span").end()
        emit_reward(1.0)
    print([span.name for span in found.spans])

asyncio.run(main())
"""


def test_the_programs_own_provider_stays_in_place():
    own = "from opentelemetry.sdk.trace import TracerProvider\ntrace.set_tracer_provider(TracerProvider())"
    assert run(AGENT.format(before=own)) == "['agentlightning.reward']"
    assert run(AGENT.format(before="")) == "['library span', 'agentlightning.reward']"


def test_switched_off_opentelemetry_costs_no_reward():
    assert run(AGENT.format(before=""), OTEL_SDK_DISABLED="true") == "['agentlightning.reward']"
