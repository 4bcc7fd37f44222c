"""A report as text for a terminal: status first, then the reason, then the numbers."""

from collections.abc import Iterable, Sequence
from textwrap import fill

from mondrian.core.terminal import LINE_WIDTH
from mondrian.rollout.decision import format_progress
from mondrian.rollout.formatting import (
    SHARE_FORMAT,
    UNKNOWN,
    format_interval,
    format_limit,
    format_time,
    format_value,
    percent,
    plural,
)
from mondrian.rollout.report import SERIES_NAMES, RolloutReport

_SPARKLINE_CHARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 9  # characters
# ANSI codes
STATUS_COLORS = {"healthy": 32, "ready": 36, "holding": 33, "failing": 31, "rolled back": 31}
_STEP_SYMBOLS = {"done": "●", "current": "◉", "stopped": "✕", "upcoming": "○"}


def format_report(report: RolloutReport, colored: bool = False) -> str:
    """Return everything but the history of each metric."""
    sections = [
        format_summary(report, colored),
        _format_exposure(report),
        _format_guardrails(report),
        _format_metrics(report),
        _format_log(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def format_summary(report: RolloutReport, colored: bool = False) -> str:
    """Return status, reason and step."""
    verdict = report["verdict"] or {"status": report["state"], "reason": report["reason"]}
    status = verdict["status"].upper()
    if colored:
        status = f"\033[1;{STATUS_COLORS.get(verdict['status'], 0)}m{status}\033[0m"
    lines = [f"{report['advisor']} · {report['name']} against {report['control']}: {status}"]
    if verdict["reason"]:
        lines.append(_wrap(verdict["reason"]))
    if report["step"]:
        lines.append(_format_steps(report))
    started = format_time(report["started_at"])
    return "\n".join([*lines, f"  version {report['version']}, since {started} UTC"])


def _wrap(text: str) -> str:
    text = _replace_unprintable(text)
    return fill(text, LINE_WIDTH, initial_indent="  ", subsequent_indent="  ")


def _format_steps(report: RolloutReport) -> str:
    track = " ── ".join(
        f"{_STEP_SYMBOLS[step['status']]} {percent(step['share'])}" for step in report["steps"]
    )
    names = ("jobs", "jobs_required", "hours", "hours_required")
    progress = format_progress(*(report["step"][name] for name in names))
    is_redundant = report["step"]["share"] == 0 or progress in report["verdict"]["reason"]
    return f"  {track}" + ("" if is_redundant else f"   {progress}")


def _format_exposure(report: RolloutReport) -> str:
    columns = ["jobs", "clients", "completed", "failed", "disconnected", "open", "rated"]
    rows = [
        [arm, *(str(report["exposure"][arm][column]) for column in columns)]
        for arm in ("candidate", "control")
    ]
    table = _format_table("EXPOSURE", columns, rows)
    return "\n".join([table, *(_wrap(line) for line in describe_assignment(report))])


def describe_assignment(report: RolloutReport) -> list[str]:
    """Return the result of the sample-ratio check in sentences."""
    check = report["assignment"]
    if not check["random_clients"]:
        return ["No client was assigned at random yet."]
    mismatch = "ALARM, mismatch" if check["e_value"] >= check["alarm_from"] else "no mismatch"
    return [
        f"Sample-ratio check: the candidate got {percent(check['actual'])} of "
        f"{plural(check['random_clients'], 'client')}, expected {percent(check['expected'])}: "
        f"{mismatch} (e-value {check['e_value']:.2g}, alarm from {check['alarm_from']:g}).",
        f"{plural(check['double_exposed'], 'client')} got answers from both arms within a step.",
    ]


def _format_guardrails(report: RolloutReport) -> str:
    rows = []
    for guardrail in report["guardrails"]:
        estimate = guardrail["estimate"]
        rows.append(
            [
                guardrail["description"],
                format_value(estimate["mean"], SHARE_FORMAT),
                format_interval(estimate, SHARE_FORMAT),
                format_limit(guardrail["limit"], guardrail["is_minimum"]),
                format_value(guardrail["control"]["mean"], SHARE_FORMAT),
                str(estimate["count"]),
                guardrail["verdict"],
            ]
        )
    columns = ["candidate", "interval", "limit", "control", "clients", ""]
    return _format_table("GUARDRAILS", columns, rows) if rows else ""


def _format_metrics(report: RolloutReport) -> str:
    rows = []
    for metric in report["metrics"]:
        candidate, control, difference = (metric[arm]["estimate"] for arm in SERIES_NAMES)
        unit, unitless = metric["unit"], {**metric, "unit": ""}
        rows.append(
            [
                metric["description"] + (f" ({unit})" if unit else ""),
                format_value(candidate["mean"], unitless),
                format_value(control["mean"], unitless),
                format_value(difference["mean"], unitless, signed=True),
                format_interval(difference, unitless, signed=True),
                sparkline([point[2] for point in metric["candidate"]["series"]]),
            ]
        )
    columns = ["candidate", "control", "difference", "95 % interval", "over time"]
    return "\n".join([_format_table("METRICS", columns, rows), *_format_success(report)])


def _format_success(report: RolloutReport) -> Iterable[str]:
    success = report["success"]
    if not success:
        return
    yield _wrap(
        f"Success metric {success['metric']} ({success['description']}): {success['verdict']}. "
        f"Margin for not worse: {format_value(success['margin'], success)}. Difference, above 0 is "
        f"better: {format_interval(success['difference'], success, True)}; over photos that both "
        f"arms critiqued: {format_interval(success['paired'], success, True)}."
    )


def _format_log(report: RolloutReport) -> str:
    rows = [
        [
            format_time(decision["decided_at"]),
            decision["who"],
            decision["action"],
            f"step {decision['step'] + 1}",
            decision["reason"],
        ]
        for decision in report["decisions"]
    ]
    return _format_table("DECISIONS (UTC)", [], rows)


def sparkline(values: Sequence[float | None]) -> str:
    """Return a small curve of block characters; empty for fewer than two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    last = len(known) - 1
    points = [known[i * last // (_SPARKLINE_WIDTH - 1)] for i in range(_SPARKLINE_WIDTH)]
    low, high = min(points), max(points)
    if high == low:
        return _SPARKLINE_CHARS[3] * _SPARKLINE_WIDTH
    return "".join(_SPARKLINE_CHARS[round((y - low) / (high - low) * 7)] for y in points)


def _format_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: numbers right, the first column left; without columns, cut long lines."""
    body = [[_replace_unprintable(cell) for cell in row] for row in rows]
    if columns:
        body = [[title, *columns], *body]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = []
    for row in body:
        cells = [
            cell.rjust(width) if i and columns else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    if columns:
        return "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])
    max_length = LINE_WIDTH - 2
    lines = [line if len(line) <= max_length else f"{line[: max_length - 1]}…" for line in lines]
    return "\n".join([title, *(f"  {line}" for line in lines or [UNKNOWN])])


def _replace_unprintable(text: str) -> str:
    """Replace characters that a terminal could interpret as commands."""
    return "".join(char if char.isprintable() else " " for char in text)
