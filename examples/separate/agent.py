"""The agent, for `agl runner examples/separate/agent.py:agent`: a program, started for each rollout."""

import sys
from pathlib import Path

import agentlightning as agl

agent = agl.command([sys.executable, str(Path(__file__).with_name("sort_mail.py"))])
