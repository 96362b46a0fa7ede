r"""When two written results are the same: LaTeX brought to one form, then compared as text. Called by `rules`.

Two forms, for the two families of tasks:

- `math_form`: MATH (Hendrycks et al., arXiv:2103.03874): spacing, `\left`, kinds of fractions, units, `x=` and the
  like make no difference.
- `minerva_form`: Minerva (Lewkowycz et al., arXiv:2206.14858, appendix D): for a line of prose; words, units and
  markup around the result go, too.

Neither evaluates anything: 2/4 is not 1/2.
"""

from __future__ import annotations

import re

_SPACES = re.compile(r"\\[!,;: ]|\\q?quad\b|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)(?![A-Za-z])")
_FRACTION_KINDS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|overline)\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=.)\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?\d\}?)?$")
_BARE_FRACTION = re.compile(r"\\frac(?:(\w)|\{([^{}]*)\})(?:(\w)|\{([^{}]*)\})")
_BARE_ROOT = re.compile(r"\\sqrt(\w)")
_SLASH = re.compile(r"(-?\d+)/(\d+)")
_POINT_FIRST = re.compile(r"(?<!\d)\.(?=\d)")
_NAME = re.compile(r"^[A-Za-z]{1,2}=(?=.)")


def math_form(text: str) -> str:
    """The form in which results of MATH are compared; linear in the length of `text`."""
    text = _SPACES.sub("", text)
    text = _FRACTION_KINDS.sub(r"\\frac", _SIZES.sub("", text))
    text = _DEGREES.sub("", text).replace("\\$", "").replace("$", "").replace("\\%", "").replace("%", "")
    text = _TEXT.sub(r"\1", _UNIT.sub("", text)).removesuffix(".")
    text = _NAME.sub("", _POINT_FIRST.sub("0.", text))
    if whole := _SLASH.fullmatch(text):
        return rf"\frac{{{whole[1]}}}{{{whole[2]}}}"
    return r"\frac{1}{2}" if text == "0.5" else _braced(text)


def same_math(given: str, expected: str) -> bool:
    """Whether two results of MATH are written alike."""
    return math_form(given) == math_form(expected)


_ARTICLE = re.compile(r"\b(?:an?|the)\s+", re.IGNORECASE)
_UNIT_WORDS = re.compile(
    r"(?:\b|(?<=\d))(?:square|cubic|units?|points?|degrees?|dollars?|cents?|hours?|minutes?|seconds?|days?|weeks?|"
    r"months?|years?|mph|km|cm|mm|inch(?:es)?|in|ft|feet|foot|meters?|metres?|miles?|percent|sq|cubes?|ways?|"
    r"students?|girls?|boys?|integers?|numbers?|edges?|sides?|digits?|multiples?)\b\.?",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MATHS = re.compile(r"\$(.*)\$")


def minerva_form(text: str) -> str:
    """The form in which results of AIME and DAPO-Math are compared."""
    text = text.split("=")[-1].strip().replace("\\$", "")
    text = _TEXT.sub(r"\1", text)
    if found := _MATHS.search(text):
        text = found[1]
    if (start := text.rfind("\\boxed{")) >= 0 and text.endswith("}"):
        text = text[start + len("\\boxed{") : -1]
    text = _UNIT_WORDS.sub("", _ARTICLE.sub("", text.replace("**", "")))
    text = _DEGREES.sub("", _SIZES.sub("", text)).replace("\\%", "").replace("%", "").replace("$", "")
    text = _FRACTION_KINDS.sub(r"\\frac", _SPACES.sub("", text)).removesuffix(".")
    if _DIGITS.fullmatch(text):
        text = text.replace(",", "")
    return _braced(text)


def _braced(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}` and `\sqrt3` as `\sqrt{3}`."""
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    return _BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
