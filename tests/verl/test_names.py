"""The names that seed document 001 gives to `agentlightning.verl`."""

import json
import subprocess
import sys

import agentlightning.verl as package


def test_every_documented_name_is_there():
    from agentlightning.verl import AgentLightningTrainer, AgentModeDaemon

    assert isinstance(AgentLightningTrainer, type)
    assert isinstance(AgentModeDaemon, type)
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []


def test_importing_the_package_brings_no_torch():
    code = "import agentlightning.verl, json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"torch", "transformers", "numpy"} & set(json.loads(done.stdout)) == set()
