"""`python -m agentlightning.cli`: the console script `agl`, by the interpreter that is wanted."""

from . import main

main()
