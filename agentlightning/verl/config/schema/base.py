"""What all sections share: strict types, no unknown fields, and the string under a field as its description."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """One section of the configuration. Read-only once loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def choice(value: str, names: Sequence[str], module: str, registered: str, register: str) -> str:
    """`value` if it is one of `names` or was registered.

    The registry lives with torch in `module`. Nobody can have registered a name while that is not loaded, so it is
    never imported for this.

    Args:
        value: What the user set.
        names: The names that come with the package.
        module: Where the registry lives.
        registered: Its function that gives all names.
        register: Its decorator, for the message.

    Raises:
        ValueError: nobody knows the name.
    """
    registry = sys.modules.get(module)
    if value in names or (registry is not None and value in getattr(registry, registered)()):
        return value
    raise ValueError(f"not a known name; possible: {', '.join(map(repr, names))}, or one given to `{register}`")


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-6` as a string, so a float may be written as one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Unbounded = Annotated[float, BeforeValidator(_number)]
"""A number, or `inf`: for what is cut off there, so that it is cut off nowhere."""
Float = Annotated[Unbounded, Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
Bound = Annotated[Unbounded, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Limit = Annotated[int, Field(ge=-1)]
"""A count, where -1 says none or never."""
