"""`agl doctor`: what is installed, which devices there are, what can run here and what is missing for the rest."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from typing import Annotated, Any

import psutil
import typer

import agentlightning

PACKAGE = "agentlightning"
_TRAINING = ("torch", "transformers", "peft", "safetensors", "hydra-core")
_LATER = "not in this version"

CAPABILITIES: tuple[tuple[str, tuple[str, ...] | None, str], ...] = (
    ("agl dev: try an agent on an endpoint", (), "any OpenAI-compatible endpoint"),
    ("agl serve, agl dev --model-path: native engine", _TRAINING, "in one process"),
    ("VERL on the native engine", _TRAINING, "in one process"),
    (
        "Supervised fine-tuning: `algorithm.sft.finetune`",
        _TRAINING,
        "on conversations; a function, not yet an `Algorithm`",
    ),
    ("VERL on vLLM or SGLang", None, _LATER),
    ("APO: prompts instead of weights", ("openai",), "any OpenAI-compatible endpoint"),
    ("SFT on the best rollouts", None, _LATER),
)
"""What there is to run: its name, the packages that it needs (`None`: it is not built), a remark."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for tools.")] = False) -> None:
    """Show what this machine can run, and what each missing thing needs.

    ```
    agl doctor
    agl doctor --json | python -m json.tool
    ```
    """
    report = examine()
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _show(report)


def examine() -> dict[str, Any]:
    """The machine, the packages, the devices and the capabilities, as JSON values."""
    found = packages()
    return {
        "agentlightning": agentlightning.__version__,
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "packages": found,
        "devices": _devices(),
        "capabilities": [capability(name, needs, remark, found) for name, needs, remark in CAPABILITIES],
    }


def packages() -> dict[str, dict[str, Any]]:
    """What the package declares, each with its version or `None`, and the extras that install it."""
    found: dict[str, dict[str, Any]] = {}
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        entry = found.setdefault(name, {"version": _version(name), "extras": []})
        if extra:
            entry["extras"].append(extra[1])
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "available": True, "detail": platform.processor() or platform.machine()}
    ]
    try:
        import torch
    except ImportError:
        detail = f"not known without torch: pip install '{PACKAGE}[verl]'"
        return [*devices, *({"device": name, "available": False, "detail": detail} for name in ("cuda", "mps"))]
    devices[0]["detail"] += f", {torch.get_num_threads()} torch threads"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    cuda = (
        ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
        or f"none for torch {torch.__version__}"
    )
    mps = torch.backends.mps.is_available()
    return [
        *devices,
        {"device": "cuda", "available": bool(gpus), "detail": cuda},
        {"device": "mps", "available": mps, "detail": "found, and not used by this version" if mps else "none"},
    ]


def capability(
    name: str, needs: tuple[str, ...] | None, remark: str, installed: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Whether one of `CAPABILITIES` can run with what is installed, and what to do if not."""
    if needs is None:
        return {"name": name, "ready": False, "needs": [], "detail": remark}
    missing = [package for package in needs if installed[package]["version"] is None]
    extras = sorted({installed[package]["extras"][0] for package in missing})
    detail = f"needs {', '.join(missing)}: pip install '{PACKAGE}[{','.join(extras)}]'" if missing else remark
    return {"name": name, "ready": not missing, "needs": missing, "detail": detail}


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()

    def table(title: str, *rows: tuple[str, str]) -> None:
        grid = Table(title=title, title_justify="left", show_header=False, min_width=60)
        for name, value in rows:
            grid.add_row(escape(name), value)
        console.print(grid)

    def mark(good: bool, text: str) -> str:
        return f"[green]yes[/]  {escape(text)}" if good else f"[yellow]no[/]   {escape(text)}"

    machine = report["machine"]
    table(
        f"agentlightning {report['agentlightning']}",
        *((key, escape(str(machine[key]))) for key in ("python", "platform", "cores")),
        ("memory", f"{machine['memory_gib']} GiB"),
    )
    table("Packages", *((name, _package_state(entry)) for name, entry in report["packages"].items()))
    table("Devices", *((entry["device"], mark(entry["available"], entry["detail"])) for entry in report["devices"]))
    table(
        "What runs here", *((entry["name"], mark(entry["ready"], entry["detail"])) for entry in report["capabilities"])
    )


def _package_state(entry: dict[str, Any]) -> str:
    if entry["version"] is not None:
        return str(entry["version"])
    extra = entry["extras"][0] if entry["extras"] else None
    return (
        rf"[yellow]missing[/]: pip install '{PACKAGE}\[{extra}]'" if extra else "[red]missing[/]: reinstall the package"
    )
