"""A report -> text for a terminal: how it is first, why in a line, then the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

from mondrian.rollout.formatting import (
    SHARE,
    UNKNOWN,
    between,
    hours,
    number,
    percent,
    plural,
    spelled,
    when,
)
from mondrian.rollout.report import Report

LINE = 100  # characters
_BARS = "▁▂▃▄▅▆▇█"
_SPARK = 10  # looks of a small curve
COLORS = {"healthy": 32, "ready": 36, "holding": 33, "failing": 31, "rolled back": 31}  # of ANSI


def in_full(told: Report, colored: bool = False) -> str:
    """Everything but the older looks at each metric."""
    parts = [
        in_short(told, colored),
        _exposure(told),
        _guardrails(told),
        _metrics(told),
        _log(told),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def in_short(told: Report, colored: bool = False) -> str:
    """How it is, why, and where among its steps."""
    verdict = told["verdict"] or {"status": told["state"], "why": told["why"]}
    status, name = verdict["status"].upper(), f"{told['advisor']} · {told['name']}"
    if colored:
        status = f"\033[1;{COLORS.get(verdict['status'], 0)}m{status}\033[0m"
    lines = [f"{name} against {told['control']}: {status}"]
    if verdict["why"]:
        lines.append(_wrapped(verdict["why"]))
    if told["step"]:
        lines.append(_step(told))
    return "\n".join([*lines, f"  version {told['version']}, since {when(told['began'])} UTC"])


def _wrapped(text: str, indent: str = "  ") -> str:
    return fill(_safe(text), LINE, initial_indent=indent, subsequent_indent=indent)


def _step(told: Report) -> str:
    signs = {"done": "●", "here": "◉", "stopped": "✕", "to come": "○"}
    track = " ── ".join(f"{signs[one['place']]} {percent(one['share'])}" for one in told["steps"])
    step = told["step"]
    asked = (
        f"{step['jobs']} of {step['jobs_asked']} critiques, "
        f"{hours(step['hours'])} of {hours(step['hours_asked'])}"
    )
    said = told["state"] == "rolled back" or asked in told["verdict"]["why"]
    return f"  {track}" + ("" if said else f"   {asked}")


def _exposure(told: Report) -> str:
    names = {"jobs": "asked", "subjects": "clients", "completed": "completed", "failed": "failed",
             "gone": "left", "open": "open", "rated": "rated"}  # fmt: skip
    rows = [[arm, *(str(told["exposure"][arm][key]) for key in names)]
            for arm in ("candidate", "control")]  # fmt: skip
    table = _table("WHO WAS ASKED", [*names.values()], rows)
    return "\n".join([table, *(_wrapped(line) for line in told_of_deal(told))])


def told_of_deal(told: Report) -> list[str]:
    """Whether both arms got the clients that they were dealt, in sentences."""
    dealt, fair = told["exposure"]["dealt"], told["fairness"]
    if not dealt["clients"]:
        return ["No client was dealt by lot yet."]
    odd = "no sign of" if fair["mismatch"] < fair["alarm"] else "ALARM:"
    return [
        f"The candidate got {percent(dealt['got'])} of {plural(dealt['clients'], 'client')} where "
        f"{percent(dealt['meant'])} were meant: {odd} a mismatch (e-value "
        f"{fair['mismatch']:.2g}; an alarm from {fair['alarm']:g}).",
        f"{plural(fair['both_arms'], 'client')} saw both arms within a step."
        if fair["both_arms"]
        else "Nobody saw both arms within a step.",
    ]


def _guardrails(told: Report) -> str:
    rows = []
    for one in told["guardrails"]:
        side = "at least" if one["least"] else "at most"
        rows.append([
            one["told"], number(one["found"]["mean"], SHARE), between(one["found"], SHARE),
            f"{side} {percent(one['limit'])}", str(one["found"]["count"]), one["verdict"],
        ])  # fmt: skip
    columns = ["candidate", "95 % interval", "limit", "count", ""]
    return _table("GUARDRAILS", columns, rows) if rows else ""


def _metrics(told: Report) -> str:
    rows = []
    for one in told["metrics"]:
        arms = (one["candidate"]["now"], one["control"]["now"])
        rows.append([
            one["told"], *(number(arm["mean"], one) for arm in arms),
            number(one["difference"]["now"]["mean"], one, True),
            between(one["difference"]["now"], one, True),
            spark([point[2] for point in one["candidate"]["series"]]),
        ])  # fmt: skip
    columns = ["candidate", "control", "difference", "95 % interval", "over time"]
    return "\n".join([_table("METRICS", columns, rows), *_success(told)])


def _success(told: Report) -> Iterable[str]:
    success = told["success"]
    if not success:
        return
    metric = spelled(success["metric"])
    yield _wrapped(
        f"Success is {success['metric']} ({success['told']}): {success['verdict']}; a drop of "
        f"{number(success['margin'], metric)} would still do. Above 0 is good: "
        f"{between(success['difference'], metric, True)}; of photographs that both arms "
        f"critiqued: {between(success['paired'], metric, True)}."
    )


def _log(told: Report) -> str:
    rows = [[when(one["at"]), one["who"], one["action"], f"step {one['step'] + 1}",
             _safe(one["why"])] for one in told["decisions"]]  # fmt: skip
    return _table("DECISIONS (UTC)", [], rows, cut=True)


def spark(values: Sequence[float | None]) -> str:
    """A small curve of characters; empty for less than two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    chosen = [known[i * (len(known) - 1) // (_SPARK - 1)] for i in range(_SPARK)]
    low, high = min(chosen), max(chosen)
    room = high - low or 1.0
    flat = high == low
    return "".join(_BARS[3 if flat else round((one - low) / room * 7)] for one in chosen)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], cut: bool = False
) -> str:
    """Columns as wide as they need to be: numbers right below their heads, words to the left."""
    lines = [[title, *columns], *([_safe(cell) for cell in row] for row in rows)]
    body = lines if columns else lines[1:]
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))] if body else []
    told = []
    for row in body:
        cells = [cell.rjust(width) if i and columns else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        text = "  ".join(cells).rstrip()
        told.append(text if not cut or len(text) <= LINE - 2 else f"{text[: LINE - 3]}…")
    if columns:
        return "\n".join([told[0], *(f"  {line}" for line in told[1:])])
    return "\n".join([title, *(f"  {line}" for line in told or [UNKNOWN])])


def _safe(text: str) -> str:
    """What a terminal cannot take for a command of its own."""
    return "".join(one if one.isprintable() else " " for one in text)
