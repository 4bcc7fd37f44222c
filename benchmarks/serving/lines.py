"""Lines of benchmarks/results/serve.json, as a table and as what the project is held to."""

from __future__ import annotations

from typing import Any

LARGE = "large-vocabulary"
GOALS = {"merged": 1.0, "beside": 10.0}  # percent that a token may be slower, on the large base
MODES = {"merged": "fine_tuned", "beside": "ab_test"}  # in which the service holds adapters so
KEYS = (
    "system",
    "model",
    "mode",
    "clients",
    "requests",
    "lost",
    "requests_per_second",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "ttft_cold_ms",
    "ttft_warm_ms",
    "model_ttft_cold_ms",
    "model_ttft_warm_ms",
    "decode_tokens_per_second",
    "base_tokens_per_second",
    "adapter_overhead",
    "swap_ms",
    "second_arm_bytes",
    "adapter_bytes",
    "tokens_per_second",
    "mean_tokens",
    "schema_valid",
    "statuses",
)
SHOWN = KEYS[:12] + KEYS[14:15] + KEYS[16:19] + KEYS[20:22]
Line = dict[str, Any]


def line(system: str, model: str, mode: str, **figures: Any) -> Line:
    """One line of the results."""
    unknown = set(figures) - set(KEYS)
    assert not unknown, unknown
    return dict.fromkeys(KEYS) | {"system": system, "model": model, "mode": mode} | figures


def ratios(results: list[Line]) -> str:
    """What the project is held to."""

    def of(key: str) -> list[Line]:
        return [r for r in results if r[key] is not None]

    out = []
    for r in of("adapter_overhead"):
        how = next(how for how, mode in MODES.items() if mode == r["mode"])
        out.append(
            f"{r['model']}, adapter {how}: {100 * r['adapter_overhead']:.1f} % slower than its "
            f"base (goal {GOALS[how]:g} on the large base), {r['swap_ms']:.3f} ms a change of "
            f"arms, {r['second_arm_bytes'] / r['adapter_bytes']:.2f} times the adapter's bytes"
        )
    for r in of("ttft_cold_ms"):
        told = f"{r['ttft_warm_ms'] / r['ttft_cold_ms']:.2f}"
        if r["model_ttft_cold_ms"]:
            inside = r["model_ttft_warm_ms"] / r["model_ttft_cold_ms"]
            told += f", inside the model process {inside:.2f}"
        out.append(f"{r['model']}: first token, warm / cold {told} (goal 0.4)")
    held, free, other = of("requests_per_second")
    out.append(
        f"{held['lost'] + free['lost']} of {held['requests'] + free['requests']} requests lost; "
        f"{_times(held, other)} of mlx_vlm.server ({other['requests']} requests); like against "
        f"like, not held to the schema, {_times(free, other)} (goal 1.5)"
    )
    return "\n".join(out)


def _times(one: Line, other: Line) -> str:
    keys = ("requests_per_second", "tokens_per_second", "p95_ms")
    rate, tokens, late = (one[key] / other[key] for key in keys)
    return f"{rate:.2f} times the requests/s, {tokens:.2f} the tokens/s and {late:.2f} the p95"


def table(results: list[Line]) -> str:
    """The results as Markdown."""
    head = "| " + " | ".join(SHOWN) + " |\n" + "|---" * len(SHOWN) + "|"
    rows = ("" if r[key] is None else str(r[key]) for r in results for key in SHOWN)
    cells = [list(row) for row in zip(*[iter(rows)] * len(SHOWN), strict=True)]
    return "\n".join([head, *("| " + " | ".join(row) + " |" for row in cells)])
