"""`page`: the report as one HTML file without scripts. Texts in it come from models and are escaped, all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from ..stats import Interval
from .diff import word_diff
from .drawing import curve_svg, lineage_svg
from .facts import Facts, HeldOut, Row

_WITH_TEXT = 200
"""Candidates whose texts stand on the page; all are in candidates.jsonl."""
_FAILURES = 10
"""Kinds of failures on the page; all are in best_prompt.json."""
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2430;background:#fff;max-width:960px;margin:32px auto;padding:0 20px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}p{margin:6px 0}.muted{color:#6b7280}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:4px 14px 4px 0;text-align:left;
border-bottom:1px solid #e5e7eb;vertical-align:top}th{font-weight:600;color:#6b7280}td.n,th.n{text-align:right}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f8fafc;border:1px solid #e5e7eb;border-radius:6px;
padding:10px 12px;margin:6px 0;font:13px/1.5 ui-monospace,monospace}
ins{background:#d1fae5;text-decoration:none}del{background:#fee2e2;color:#991b1b}
.wide{overflow-x:auto}.big{font-size:20px}tr.best{font-weight:600}details{margin:4px 0}summary{cursor:pointer}
svg{font-family:system-ui,sans-serif}
"""


def page(facts: Facts, title: str) -> str:
    """The report.

    Args:
        facts: What there is to tell.
        title: Name of the run.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}: prompt optimisation</title><style>{_STYLE}</style></head><body>",
        _head(facts, title),
        _section("Held-out result", _held_out(facts)),
        _section("Cost", _cost(facts)),
        _section("Validation reward", f"<div class='wide'>{curve_svg(facts)}</div>", _curve_note()),
        _section("Lineage", f"<div class='wide'>{lineage_svg(facts)}</div>"),
        _section("The best prompt", *_differences(facts)),
        _section("Candidates", _candidates(facts)),
        _section("Proposals that were turned down", _rejected(facts)),
        _section("Rounds", _rounds(facts)),
        _section("Settings", f"<pre>{escape(json.dumps(facts.plan, indent=2, default=str))}</pre>"),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _section(title: str, *parts: str) -> str:
    return f"<h2>{title}</h2>{''.join(parts)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """Cells are HTML. A head that begins with `#` is of a column of numbers."""
    kinds = [" class='n'" if head.startswith("#") else "" for head in heads]
    lines = ["<tr>" + "".join(f"<th{k}>{h.lstrip('#')}</th>" for h, k in zip(heads, kinds, strict=True)) + "</tr>"]
    for number, row in enumerate(rows):
        mark = " class='best'" if number == best else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td{k}>{c}</td>" for c, k in zip(row, kinds, strict=True)) + "</tr>")
    return f"<div class='wide'><table>{''.join(lines)}</table></div>"


def _head(facts: Facts, title: str) -> str:
    state = f"ended: {escape(facts.ended)}" if facts.ended else "still running"
    best, start = facts.best, facts.start
    said = (
        f"{best.id} {_mean(best.val)}" if best.id != start.id else f"nothing better than the start, {_mean(best.val)}"
    )
    before = f", start {_mean(start.val)}" if best.id != start.id else ""
    rounds = f"{len(facts.rounds)} round{'s' * (len(facts.rounds) != 1)}, {len(facts.rows)} candidates"
    return (
        f"<h1>{escape(title)}</h1><p class='muted'>{rounds}; {state}</p>"
        f"<p class='big'>Best on validation: <b>{said}</b>{before}</p>"
    )


def _mean(value: Interval | None) -> str:
    return "without a score" if value is None else f"{value.mean:.3f} on {value.n} tasks"


def _span(value: Interval | None) -> str:
    return "" if value is None else f"{value.low:.3f} to {value.high:.3f}"


def _held_out(facts: Facts) -> str:
    held = facts.held_out
    if held is None:
        said = "<p>No result on tasks that had no part in the choice" + ("" if facts.ended else " yet") + ". "
        said += "The validation score of the best flatters it: it is the best of several that were tried on the same "
        return said + "tasks. Give test tasks for an honest one.</p>"
    rows = [
        ["start", f"{held.start.mean:.3f}", _span(held.start), str(held.start.n)],
        [f"best ({facts.best.id})", f"{held.best.mean:.3f}", _span(held.best), str(held.best.n)],
    ]
    return _table(["", "#mean reward", "95% interval", "#tasks"], rows) + f"<p>{escape(_verdict(held))}</p>"


def _verdict(held: HeldOut) -> str:
    """The held-out result in a sentence."""
    c = held.comparison
    if c is None:
        return "The start itself is the best on validation."
    claim = "No difference from the start is shown"
    if c.p < 0.05:
        claim = f"The best is {'better' if c.difference > 0 else 'worse'} than the start"
    return (
        f"{claim}: {c.difference:+.3f} (95% interval {c.low:+.3f} to {c.high:+.3f}), p = {c.p:.2g} ({c.method} test, "
        f"two-sided, paired by task); better on {c.wins} tasks, worse on {c.losses}, equal on {c.ties}."
    )


def _cost(facts: Facts) -> str:
    errors: dict[str, int] = facts.spent.get("errors") or {}
    faults = ", ".join(f"{escape(kind)} {count}" for kind, count in errors.items())
    failed = _table(["rollouts failed with", "#rollouts"], [[escape(e), str(n)] for e, n in _most(facts.failures)])
    return (
        f"<p>{escape(facts.cost)}</p>"
        + (f"<p>Faults of the LLM endpoint: {faults}</p>" if faults else "")
        + (failed if facts.failures else "")
    )


def _most(failures: dict[str, int]) -> list[tuple[str, int]]:
    """The most frequent; what is left in one row."""
    found = list(failures.items())
    rest = sum(count for _, count in found[_FAILURES:])
    return [*found[:_FAILURES], *([("others", rest)] if rest else [])]


def _curve_note() -> str:
    return "<p class='muted'>Line: the best so far, after each round. Dots: candidates that were tried.</p>"


def _differences(facts: Facts) -> list[str]:
    before, after = facts.start.candidate.texts, facts.best.candidate.texts
    parts: list[str] = []
    for name, text in after.items():
        heading = f"<p><b>{escape(name)}</b></p>" if len(after) > 1 else ""
        if text == before[name]:
            parts.append(f"{heading}<p class='muted'>unchanged</p><pre>{escape(text)}</pre>")
            continue
        tags = {"same": ("", ""), "gone": ("<del>", "</del>"), "new": ("<ins>", "</ins>")}
        pieces = "".join(
            f"{tags[kind][0]}{escape(part)}{tags[kind][1]}" for kind, part in word_diff(before[name], text)
        )
        parts.append(
            f"{heading}<pre>{escape(text)}</pre><details open><summary>Against the start</summary>"
            f"<pre>{pieces}</pre></details>"
        )
    return parts


def _candidates(facts: Facts) -> str:
    ranked = sorted(facts.rows, key=lambda row: -(row.val.mean if row.val else float("-inf")))
    rows = [_candidate(row, number < _WITH_TEXT) for number, row in enumerate(ranked)]
    heads = [
        "candidate",
        "made by",
        "of",
        "prompt",
        "#round",
        "#validation",
        "95% interval",
        "#tasks",
        "#gain",
        "#train",
    ]
    best = next(number for number, row in enumerate(ranked) if row.id == facts.best.id)
    return _table([*heads, "fate"], rows, best) + (
        "<p class='muted'>Gain: mean difference from the start, on the validation tasks that both were tried on. "
        "Means of candidates with few tasks say little.</p>"
    )


def _candidate(row: Row, with_text: bool) -> list[str]:
    made, val = row.candidate, row.val
    return [
        f"<details><summary>{made.id}</summary>{_texts(row)}</details>" if with_text else made.id,
        escape(made.operator),
        ", ".join(made.parents),
        escape(made.component),
        str(made.round),
        f"{val.mean:.3f}" if val else "",
        _span(val),
        str(val.n) if val else "",
        "" if row.gain is None or made.operator == "seed" else f"{row.gain:+.3f}",
        "" if row.train is None else f"{row.train:.3f} ({row.train_n})",
        row.fate,
    ]


def _texts(row: Row) -> str:
    parts = [f"<pre>{escape(row.candidate.why)}</pre>"] if row.candidate.why else []
    several = len(row.candidate.texts) > 1
    for name, text in row.candidate.texts.items():
        parts.append((f"<b>{escape(name)}</b>" if several else "") + f"<pre>{escape(text)}</pre>")
    return "".join(parts)


def _rejected(facts: Facts) -> str:
    turned = sum(facts.rejected.values())
    if not turned:
        return f"<p>None of {facts.proposed}.</p>"
    rows = [[escape(reason), str(count)] for reason, count in facts.rejected.items()]
    return f"<p>{turned} of {facts.proposed}, before they cost a rollout.</p>" + _table(["reason", "#proposals"], rows)


def _rounds(facts: Facts) -> str:
    rows = [[f"{now.number}", f"{now.proposed}", f"{len(now.admitted)}", f"{len(now.gated)}"] for now in facts.rounds]
    for row, now in zip(rows, facts.rounds, strict=True):
        row += [now.best, f"{now.best_score:.3f}", f"{now.rollouts}"]
    heads = ["#round", "#proposed", "#admitted", "#through the gate", "best", "#its score", "#rollouts so far"]
    return f"<details><summary>{len(rows)}</summary>{_table(heads, rows)}</details>"
