"""Entries of benchmarks/results/serve.json, and their comparison with the project's goals."""

from typing import Any

# Percent by which decoding with an adapter may be slower than its base, on the large base.
GOALS = {"merged": 1.0, "unmerged": 10.0}
# The service mode that holds adapters like this.
MODES = {"merged": "fine_tuned", "unmerged": "ab_test"}
KEYS = (
    "system model mode clients requests lost requests_per_second p50_ms p95_ms p99_ms "
    "ttft_cold_ms ttft_warm_ms ttft_same_photo_ms model_ttft_cold_ms model_ttft_warm_ms "
    "model_ttft_same_photo_ms decode_tokens_per_second "
    "base_tokens_per_second adapter_overhead swap_ms second_arm_bytes adapter_bytes "
    "tokens_per_second mean_tokens schema_valid statuses"
).split()
TABLE_COLUMNS = (
    "system model mode clients requests lost requests_per_second p50_ms p95_ms p99_ms "
    "ttft_cold_ms ttft_warm_ms ttft_same_photo_ms decode_tokens_per_second adapter_overhead "
    "swap_ms second_arm_bytes tokens_per_second mean_tokens"
).split()
Result = dict[str, Any]


def make_result(system: str, model: str, mode: str, **metrics: Any) -> Result:
    """Return an entry with all keys; None for what was not measured."""
    unknown = set(metrics) - set(KEYS)
    assert not unknown, unknown
    return dict.fromkeys(KEYS) | {"system": system, "model": model, "mode": mode} | metrics


def compare_with_goals(results: list[Result]) -> str:
    def with_metric(name: str) -> list[Result]:
        return [r for r in results if r[name] is not None]

    lines = []
    for r in with_metric("adapter_overhead"):
        kind = next(kind for kind, mode in MODES.items() if mode == r["mode"])
        lines.append(
            f"{r['model']}, {kind} adapter: {100 * r['adapter_overhead']:.1f} % slower than its "
            f"base (goal {GOALS[kind]:g} on the large base), {r['swap_ms']:.3f} ms per switch of "
            f"arms, {r['second_arm_bytes'] / r['adapter_bytes']:.2f} times the adapter's bytes"
        )
    for r in with_metric("ttft_cold_ms"):
        lines.append(
            f"{r['model']}: first token, warm / cold {_first_token_ratio(r, 'warm')}; same photo, "
            f"another advisor {_first_token_ratio(r, 'same_photo')} (goal 0.4 on the large base)"
        )
    constrained, free, mlx_vlm = with_metric("requests_per_second")
    lost, requests = (constrained[name] + free[name] for name in ("lost", "requests"))
    lines.append(
        f"{lost} of {requests} requests lost; {_ratios(constrained, mlx_vlm)} of mlx_vlm.server "
        f"({mlx_vlm['requests']} requests); unconstrained like mlx_vlm.server: "
        f"{_ratios(free, mlx_vlm)} (goal 1.5)"
    )
    return "\n".join(lines)


def _first_token_ratio(result: Result, kind: str) -> str:
    ratio = f"{result[f'ttft_{kind}_ms'] / result['ttft_cold_ms']:.2f}"
    if not result["model_ttft_cold_ms"]:
        return ratio
    model_ratio = result[f"model_ttft_{kind}_ms"] / result["model_ttft_cold_ms"]
    return f"{ratio}, inside the model process {model_ratio:.2f}"


def _ratios(result: Result, other: Result) -> str:
    names = ("requests_per_second", "tokens_per_second", "p95_ms")
    requests, tokens, p95 = (result[name] / other[name] for name in names)
    return f"{requests:.2f} times the requests/s, {tokens:.2f} the tokens/s and {p95:.2f} the p95"
