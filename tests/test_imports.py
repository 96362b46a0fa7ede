"""The rules of who may import whom, and what `import agentlightning` must not bring along."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "agentlightning"

ROOMS = (
    "cli",
    "trainer",
    "algorithm",
    "verl",
    "runner",
    "execution",
    "litagent",
    "credit",
    "adapter",
    "learner",
    "inference",
    "llm_proxy",
    "instrumentation",
    "emitter",
    "tracer",
    "store",
    "report",
    "logging",
    "env_var",
    "utils",
    "semconv",
    "types",
    "not_built",
)
"""From the top down. A room imports only rooms that stand below it."""

NEVER = {
    # Pure machine learning, to be read, tested and used without the rest.
    "learner": {"llm_proxy", "emitter", "tracer", "semconv", "store"},
    "inference": {"llm_proxy", "emitter", "tracer", "semconv", "store"},
    # They share plain data, not each other's classes.
    "credit": {"adapter", "learner", "inference"},
    "adapter": {"learner", "inference"},
}
"""Rooms below that a room may not import all the same."""

TORCH = {"torch", "transformers", "tokenizers", "safetensors"}
TORCH_PLACES = (
    "learner/",
    "inference/",
    "verl/",
    "algorithm/sft/",
    "algorithm/verl/interface.py",
    "cli/native.py",
    "cli/doctor.py",
)
"""Where torch may be imported; these files only ask whether it is there."""

COMMANDS = ("verl/main_ppo.py",)
"""Files that are run as `python -m ...`: they belong to `cli`, wherever verl's commands want them to be."""

_DOTTED_COMMANDS = tuple(f"agentlightning.{file.removesuffix('.py').replace('/', '.')}" for file in COMMANDS)

HEAVY = {"torch", "transformers", "starlette", "uvicorn", "fastapi", "sqlalchemy", "aiohttp", "openai", "cloudpickle"}
"""What `import agentlightning` must not import."""

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports at run time, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imported(ast.Module(body=node.orelse, type_ignores=[]), package)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from package import room` names the room last
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        else:
            yield from imported(node, package)


def room_of(name: str) -> str | None:
    """The room of a dotted name within the package; "" for the package itself."""
    parts = name.split(".")
    if parts[0] != "agentlightning":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def faults(source: str, path: Path) -> list[str]:
    """What the file at `path` (relative to the package) imports against the rules."""
    room = "cli" if path.as_posix() in COMMANDS else path.parts[0].removesuffix(".py")
    package = ".".join(["agentlightning", *path.parts[:-1]])
    found: list[str] = []
    for line, name in imported(ast.parse(source), package):
        other = room_of(name)
        if name.split(".")[0] in TORCH and not path.as_posix().startswith(TORCH_PLACES):
            found.append(f"{path}:{line} imports `{name}`: torch only in {', '.join(TORCH_PLACES)}")
        elif other == "" and room != "cli":
            found.append(f"{path}:{line} imports `{name}` from the package itself: name its room")
        elif any(name.startswith(command) for command in _DOTTED_COMMANDS):
            found.append(f"{path}:{line} imports `{name}`: that is a command")
        elif other and (ROOMS.index(other) < ROOMS.index(room) or other in NEVER.get(room, ())):
            found.append(f"{path}:{line} imports `{name}`: `{room}` may not import `{other}`")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative == Path("__init__.py"):
        return  # names every room, and imports one when a name of it is used
    assert relative.parts[0].removesuffix(".py") in ROOMS, "a new room needs its place in `ROOMS`"
    assert faults(path.read_text(), relative) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store/base.py", "from agentlightning.runner import Runner"),
        ("store/base.py", "def f():\n    import agentlightning.trainer.trainer"),
        ("store/base.py", "from ..cli import app"),
        ("store/deep/er.py", "from ...cli import app"),
        ("store/base.py", "from agentlightning import trainer"),
        ("store/base.py", "import agentlightning as agl"),
        ("learner/learner.py", "from agentlightning.store.base import LightningStore"),
        ("credit/base.py", "from agentlightning.adapter import Adapter"),
        ("runner/base.py", "import torch.nn"),
        ("semconv.py", "from agentlightning.tracer import Tracer"),
        ("store/base.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from agentlightning.cli import main"),
        ("cli/app.py", "from agentlightning.verl.main_ppo import run"),
        ("cli/app.py", "from agentlightning.verl import main_ppo"),
        ("verl/main_ppo.py", "import agentlightning.verl.main_ppo"),
    ],
)
def test_an_import_against_the_rules_is_found(path: str, source: str) -> None:
    assert len(faults(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("runner/base.py", "from agentlightning.store.base import LightningStore"),
        ("store/sql.py", "from .base import LightningStore\nfrom agentlightning.types import Span\nimport os"),
        ("store/base.py", "if TYPE_CHECKING:\n    from agentlightning.runner import Runner"),
        ("algorithm/base.py", "if typing.TYPE_CHECKING:\n    from agentlightning.trainer import Trainer"),
        ("learner/learner.py", "import torch\nfrom agentlightning.inference.attention import packed"),
        ("cli/app.py", "import agentlightning"),
        ("verl/main_ppo.py", "from agentlightning.trainer import Trainer"),
    ],
)
def test_an_import_within_the_rules_passes(path: str, source: str) -> None:
    assert faults(source, Path(path)) == []


def python(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light() -> None:
    loaded = json.loads(python("import agentlightning, json, sys; print(json.dumps(list(sys.modules)))"))
    assert {name for name in loaded if name in HEAVY} == set()


def test_defining_an_agent_is_light() -> None:
    code = "import agentlightning as agl, json, sys; agl.rollout, agl.LitAgent, agl.Trainer, agl.VERL, agl.emit_reward"
    loaded = json.loads(python(f"{code}; print(json.dumps(list(sys.modules)))"))
    assert {name for name in loaded if name in HEAVY} == set()


def test_every_public_name_resolves() -> None:
    code = "import agentlightning as agl; print([name for name in agl.__all__ if getattr(agl, name) is None])"
    assert python(code).strip() == "[]"


def test_both_ways_of_importing_give_the_package() -> None:
    assert python("import agentlightning; from agentlightning import agl; print(agl is agentlightning)") == "True\n"


def test_an_unknown_name_says_so() -> None:
    code = "import agentlightning\ntry: agentlightning.nonsense\nexcept AttributeError as e: print(e)"
    assert "nonsense" in python(code)
