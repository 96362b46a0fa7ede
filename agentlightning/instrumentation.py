"""Libraries that make spans by themselves: `instrument_all`, `uninstrument_all`. For programs; see `tracer/libraries`.

An agent under a runner needs none of this: `OtelTracer(instrument=True)` does it for as long as the runner works.
"""

from agentlightning.tracer.libraries import LIBRARIES, instrument_all, uninstrument_all

# A package without modules: 0.3 has some here, and importing one says what replaces it (`not_built`).
__path__: list[str] = []

__all__ = ["LIBRARIES", "instrument_all", "uninstrument_all"]
