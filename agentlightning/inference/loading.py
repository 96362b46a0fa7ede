"""Models from disk and back to disk, in the Hugging Face layout.

Called by whoever runs an engine or trains (`cli/`, `verl/`, `learner/` tests); calls transformers. Loading fails with
one clear line before anything else starts; saving leaves either the whole checkpoint or none.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from agentlightning.types import ModelError

from .attention import ATTENTION, lm_logits, packed_hidden_states

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM that runs on packed tokens, its tokenizer, and where both came from."""

    model: Any
    tokenizer: Any
    path: str


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    tokenizer: str | Path | None = None,
    chat_template: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a causal LM for the engine and the learner, in evaluation mode.

    Args:
        path: A folder in the Hugging Face layout, or a name on the hub such as `Qwen/Qwen2.5-0.5B-Instruct`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, as stored elsewhere.
        device: Where torch puts it.
        tokenizer: Folder or hub name of the tokenizer; `None` is the model's own.
        chat_template: Template (Jinja) in place of the tokenizer's.
        overrides: Values to change in the model's `config.json`.
        trust_remote_code: Run code that comes with the model or tokenizer.

    Raises:
        ModelError: nothing there, not a causal LM, damaged or incomplete weights, no chat template, an override of a
            value that the model has not, or an architecture whose attention can't be replaced. The message says what
            to do.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError(f"`dtype` is {dtype!r}; it must be auto, {', '.join(DTYPES)}")
    name = _locate(path)
    stored = "auto" if dtype == "auto" and not device.startswith("cpu") else DTYPES.get(dtype, torch.float32)
    words = load_tokenizer(tokenizer or path, chat_template=chat_template, trust_remote_code=trust_remote_code)
    source = {"local_files_only": Path(name).is_dir() or not _hub_answers(), "trust_remote_code": trust_remote_code}
    with _quiet(), _one_line(name):
        changed = {"config": _overridden(name, overrides, source)} if overrides else {}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=stored, attn_implementation=ATTENTION, output_loading_info=True, **changed, **source
        )
        model, report = loaded
    # The engine refuses prompts that are too long; transformers would warn of them once, whatever their fate.
    words.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    _check_parts(name, model, words, report)
    model = model.to(device).eval()
    _check_attention(name, model)
    return LoadedModel(model, words, name)


def load_tokenizer(path: str | Path, *, chat_template: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, without its weights.

    Args:
        path: A folder or hub name.
        chat_template: Template (Jinja) in place of its own.
        trust_remote_code: Run code that comes with it.

    Raises:
        ModelError: there is none.
    """
    name = _locate(path)
    here = Path(name).is_dir() or not _hub_answers()
    with _quiet(), _one_line(name):
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=here, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def stored_weights(model: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """What `save_model` wrote to `path`, by the names and in the precision of `model`, which stays as it is.

    Names on disk can be others than in memory: fused experts are stored one by one.

    Raises:
        ModelError: there is no model of the kind, or it is damaged or incomplete.
    """
    name = _locate(Path(path))
    with _quiet(), _one_line(name):
        loaded, report = type(model).from_pretrained(
            name, dtype=model.dtype, local_files_only=True, output_loading_info=True
        )
    _check_complete(name, report)
    return loaded.state_dict()


def _overridden(name: str, overrides: Mapping[str, Any], source: Mapping[str, Any]) -> Any:
    """The model's configuration with values changed."""
    config: Any = AutoConfig.from_pretrained(name, **source)
    for key, value in overrides.items():
        if not hasattr(config, key):
            raise ModelError(
                f"`{name}` has no `{key}` in its configuration to override; its names are in `config.json`"
            )
        setattr(config, key, value)
    return config


def save_model(model: Any, tokenizer: Any, path: str | Path) -> None:
    """Write a model and its tokenizer so that plain `AutoModelForCausalLM.from_pretrained(path)` loads them.

    They are written beside `path` and moved there when complete. What was at `path` is replaced.

    Raises:
        ModelError: it can't be written, for instance because the disk is full; what was at `path` is still there.
    """
    target = Path(path)
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        with _quiet():
            model.save_pretrained(draft, safe_serialization=True)
            tokenizer.save_pretrained(draft)
        _replace(draft, target)
    except (OSError, SafetensorError) as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        raise ModelError(f"can't write the model to `{target}`: {error}") from error


def _replace(draft: Path, target: Path) -> None:
    draft.chmod(0o755)
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _locate(path: str | Path) -> str:
    """The folder or hub name to load from."""
    name = str(path)
    folder = Path(name).expanduser()
    if (checkpoint := folder / "actor" / "huggingface").is_dir():  # `global_step_N` of a run
        folder = checkpoint
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"`{name}` holds no `config.json`: give a folder in the Hugging Face layout")
        return str(folder)
    if folder.exists() or isinstance(path, Path) or not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        raise ModelError(f"no model folder at `{name}`: give an existing folder, or `OWNER/NAME` of a model on the hub")
    return name


def _hub_answers() -> bool:
    """Whether the hub can be asked. Its own client tries for most of a minute before it says no."""
    if hub.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(hub.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


@contextmanager
def _quiet() -> Generator[None]:
    """Without transformers' progress bars."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _one_line(name: str) -> Generator[None]:
    """Turn what transformers raises over a bad model into one line."""
    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"the weights of `{name}` are damaged or cut off: {error}; copy them again") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError) and error.args == (ATTENTION,):
            reason = "its architecture has attention of its own, which can't be replaced"
        if not Path(name).is_dir():
            reason = f"there is no such folder, and neither the hub nor its local cache gives it ({reason})"
        raise ModelError(f"can't load `{name}` as a causal language model: {reason}") from error


def _check_complete(name: str, report: dict[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"`{name}` lacks {len(missing)} weights, such as `{missing[0]}`: the files are incomplete, copy them again"
        )


def _check_parts(name: str, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
    _check_complete(name, report)
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of `{name}` has no chat template: add `chat_template.jinja`, or use an instruct model"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"the tokenizer of `{name}` has {len(tokenizer)} tokens, its model only {rows}")


@torch.no_grad()
def _check_attention(name: str, model: Any) -> None:
    """Run two tiny segments packed and apart: a model that bypasses our attention gives other numbers, or none."""
    problem = f"`{name}` ({type(model).__name__}) does not run on packed tokens: its"
    ids = torch.arange(5, device=model.device) % model.get_input_embeddings().weight.shape[0]
    try:
        packed = lm_logits(model, packed_hidden_states(model, ids, [0, 2, 5])).float()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{problem} layers are not plain attention ({error})") from error
    apart = torch.cat([model(part[None], use_cache=False).logits[0] for part in (ids[:2], ids[2:])]).float()
    tolerance = (1e-3 if model.dtype == torch.float32 else 0.1) * apart.abs().max()
    # Weights that diverged are not this check's business; the engine says so when it is asked for tokens.
    if bool(torch.isfinite(apart).all()) and not bool((packed - apart).abs().max() <= tolerance):
        raise ModelError(f"{problem} attention or its output layer is not a plain one")
