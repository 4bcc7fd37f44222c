"""A report -> text for a terminal: how it is first, why in a line, then the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

from mondrian.rollout.formatting import (
    SHARE_FORMAT,
    UNKNOWN,
    format_hours,
    format_interval,
    format_time,
    format_value,
    metric_format,
    percent,
    plural,
)
from mondrian.rollout.report import RolloutReport

LINE_WIDTH = 100  # characters
_SPARKLINE_CHARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 10  # looks of a small curve
STATUS_COLORS = {
    "healthy": 32,
    "ready": 36,
    "holding": 33,
    "failing": 31,
    "rolled back": 31,
}  # of ANSI


def format_report(report: RolloutReport, colored: bool = False) -> str:
    """Everything but the older looks at each metric."""
    parts = [
        format_summary(report, colored),
        _exposure(report),
        _guardrails(report),
        _metrics(report),
        _log(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_summary(report: RolloutReport, colored: bool = False) -> str:
    """How it is, why, and where among its steps."""
    verdict = report["verdict"] or {"status": report["state"], "why": report["why"]}
    status, name = verdict["status"].upper(), f"{report['advisor']} · {report['name']}"
    if colored:
        status = f"\033[1;{STATUS_COLORS.get(verdict['status'], 0)}m{status}\033[0m"
    lines = [f"{name} against {report['control']}: {status}"]
    if verdict["why"]:
        lines.append(_wrap(verdict["why"]))
    if report["step"]:
        lines.append(_step(report))
    return "\n".join(
        [*lines, f"  version {report['version']}, since {format_time(report['began'])} UTC"]
    )


def _wrap(text: str, indent: str = "  ") -> str:
    return fill(
        _replace_unprintable(text), LINE_WIDTH, initial_indent=indent, subsequent_indent=indent
    )


def _step(report: RolloutReport) -> str:
    signs = {"done": "●", "here": "◉", "stopped": "✕", "to come": "○"}
    track = " ── ".join(
        f"{signs[planned_step['place']]} {percent(planned_step['share'])}"
        for planned_step in report["steps"]
    )
    step = report["step"]
    progress = (
        f"{step['jobs']} of {step['jobs_asked']} critiques, "
        f"{format_hours(step['hours'])} of {format_hours(step['hours_asked'])}"
    )
    is_redundant = report["state"] == "rolled back" or progress in report["verdict"]["why"]
    return f"  {track}" + ("" if is_redundant else f"   {progress}")


def _exposure(report: RolloutReport) -> str:
    names = {
        "jobs": "asked",
        "subjects": "clients",
        "completed": "completed",
        "failed": "failed",
        "gone": "left",
        "open": "open",
        "rated": "rated",
    }
    rows = [
        [arm, *(str(report["exposure"][arm][key]) for key in names)]
        for arm in ("candidate", "control")
    ]
    table = _table("WHO WAS ASKED", [*names.values()], rows)
    return "\n".join([table, *(_wrap(line) for line in describe_assignment(report))])


def describe_assignment(report: RolloutReport) -> list[str]:
    """Whether both arms got the clients that they were dealt, in sentences."""
    assignment, fair = report["exposure"]["dealt"], report["fairness"]
    if not assignment["clients"]:
        return ["No client was dealt by lot yet."]
    odd = "no sign of" if fair["mismatch"] < fair["alarm"] else "ALARM:"
    return [
        f"The candidate got {percent(assignment['got'])} of "
        f"{plural(assignment['clients'], 'client')} where "
        f"{percent(assignment['meant'])} were meant: {odd} a mismatch (e-value "
        f"{fair['mismatch']:.2g}; an alarm from {fair['alarm']:g}).",
        f"{plural(fair['both_arms'], 'client')} saw both arms within a step."
        if fair["both_arms"]
        else "Nobody saw both arms within a step.",
    ]


def _guardrails(report: RolloutReport) -> str:
    rows = []
    for guardrail in report["guardrails"]:
        side = "at least" if guardrail["least"] else "at most"
        rows.append(
            [
                guardrail["told"],
                format_value(guardrail["found"]["mean"], SHARE_FORMAT),
                format_interval(guardrail["found"], SHARE_FORMAT),
                f"{side} {percent(guardrail['limit'])}",
                str(guardrail["found"]["count"]),
                guardrail["verdict"],
            ]
        )
    columns = ["candidate", "95 % interval", "limit", "count", ""]
    return _table("GUARDRAILS", columns, rows) if rows else ""


def _metrics(report: RolloutReport) -> str:
    rows = []
    for metric in report["metrics"]:
        arms = (metric["candidate"]["now"], metric["control"]["now"])
        rows.append(
            [
                metric["told"],
                *(format_value(arm["mean"], metric) for arm in arms),
                format_value(metric["difference"]["now"]["mean"], metric, True),
                format_interval(metric["difference"]["now"], metric, True),
                sparkline([point[2] for point in metric["candidate"]["series"]]),
            ]
        )
    columns = ["candidate", "control", "difference", "95 % interval", "over time"]
    return "\n".join([_table("METRICS", columns, rows), *_success(report)])


def _success(report: RolloutReport) -> Iterable[str]:
    success = report["success"]
    if not success:
        return
    metric = metric_format(success["metric"])
    yield _wrap(
        f"Success is {success['metric']} ({success['told']}): {success['verdict']}; a drop of "
        f"{format_value(success['margin'], metric)} would still do. Above 0 is good: "
        f"{format_interval(success['difference'], metric, True)}; of photographs that both arms "
        f"critiqued: {format_interval(success['paired'], metric, True)}."
    )


def _log(report: RolloutReport) -> str:
    rows = [
        [
            format_time(decision["at"]),
            decision["who"],
            decision["action"],
            f"step {decision['step'] + 1}",
            _replace_unprintable(decision["why"]),
        ]
        for decision in report["decisions"]
    ]
    return _table("DECISIONS (UTC)", [], rows, cut=True)


def sparkline(values: Sequence[float | None]) -> str:
    """A small curve of characters; empty for less than two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    chosen = [
        known[i * (len(known) - 1) // (_SPARKLINE_WIDTH - 1)] for i in range(_SPARKLINE_WIDTH)
    ]
    low, high = min(chosen), max(chosen)
    room = high - low or 1.0
    flat = high == low
    return "".join(_SPARKLINE_CHARS[3 if flat else round((y - low) / room * 7)] for y in chosen)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], cut: bool = False
) -> str:
    """Columns as wide as they need to be: numbers right below their heads, words to the left."""
    lines = [[title, *columns], *([_replace_unprintable(cell) for cell in row] for row in rows)]
    body = lines if columns else lines[1:]
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))] if body else []
    rendered_rows = []
    for row in body:
        cells = [
            cell.rjust(width) if i and columns else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        text = "  ".join(cells).rstrip()
        rendered_rows.append(
            text if not cut or len(text) <= LINE_WIDTH - 2 else f"{text[: LINE_WIDTH - 3]}…"
        )
    if columns:
        return "\n".join([rendered_rows[0], *(f"  {line}" for line in rendered_rows[1:])])
    return "\n".join([title, *(f"  {line}" for line in rendered_rows or [UNKNOWN])])


def _replace_unprintable(text: str) -> str:
    """What a terminal cannot take for a command of its own."""
    return "".join(char if char.isprintable() else " " for char in text)
