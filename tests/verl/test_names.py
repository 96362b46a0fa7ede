"""The names that seed document 001 gives to `agentlightning.verl`."""

import inspect
import json
import subprocess
import sys

import pytest

import agentlightning.verl as package


def test_every_documented_name_is_there():
    from agentlightning.verl import AgentLightningTrainer, AgentModeDaemon

    assert isinstance(AgentLightningTrainer, type)
    assert isinstance(AgentModeDaemon, type)
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []


@pytest.mark.parametrize(
    "method",
    [
        "clear_data_and_server()",
        "get_test_metrics()",
        "get_train_data_batch(max_prompt_length, max_response_length, device)",
        "run_until_all_finished(verbose=True)",
        "set_up_data_and_server(data, server_addresses, is_train=True)",
        "start()",
    ],
)
def test_the_daemon_has_the_documented_methods(method):
    name, _, rest = method.partition("(")
    documented = [word.strip().partition("=") for word in rest.removesuffix(")").split(",") if word]
    has = inspect.signature(getattr(package.AgentModeDaemon, name)).parameters
    assert list(has)[1 : 1 + len(documented)] == [word for word, _, _ in documented]
    assert [str(has[word].default) for word, _, default in documented if default] == [
        default for _, _, default in documented if default
    ]


def test_importing_the_package_brings_no_torch():
    code = "import agentlightning.verl, json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"torch", "transformers", "numpy"} & set(json.loads(done.stdout)) == set()
