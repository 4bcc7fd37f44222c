import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from mondrian.core.errors import BaseModelError, TrainingError
from mondrian.core.params import Params, TrainParams, load_params
from mondrian.critique.rows import ChatRow
from mondrian.model import lora
from mondrian.model.architecture import Architecture, read_architecture
from mondrian.model.cpu.attention import QUERY_BLOCK_SIZE, Blocks
from mondrian.model.device import CPU, CUDA, DEVICE, METAL, Device, choose_metal
from mondrian.model.hardware import Throughput, measure_throughput, memory_budget
from mondrian.model.lora import PROJECTIONS, LoraConfig
from mondrian.model.tokenizer import ApproximateTokenizer, ChatTokenizer, load_tokenizer
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples
from mondrian.training.plan import TrainingPlan, build_setup, make_plan
from mondrian.training.plan_report import (
    Machine,
    check_memory_fit,
    describe_plan,
    suggest_fitting_settings,
)
from mondrian.training.step_cost import (
    BatchShape,
    RunSetup,
    _count_scores,
    count_operations,
    memory_breakdown,
)
from mondrian.training.trainer import Trainer
from tests.conftest import ROOT
from tests.training.unscored_rows import without_scores
from tests.waiting import PATIENCE

TINY = ROOT / "models/base/mondrian-tiny"
SIZES = {"2B": 2_127_532_032, "4B": 4_437_815_808, "8B": 8_767_123_696}  # as the hub has them
BATCH = BatchShape(1400, ((1400, 1400),), ((300, 1400),), 300, 300)


def read_published(size: str) -> Architecture:
    return read_architecture(f"Qwen/Qwen3-VL-{size}-Instruct")


@pytest.fixture
def plan(base_vlm: Any, rows: list[ChatRow], params: Params) -> TrainingPlan:
    job = build_setup(read_architecture(str(TINY)), params.train, CPU)
    return make_plan(job, base_vlm.tokenizer, rows, rows[:2])


@pytest.mark.parametrize(("size", "weights"), SIZES.items())
def test_published_sizes_have_the_weights_of_the_hub(size: str, weights: int) -> None:
    assert read_published(size).num_weights() == weights


def test_mondrian_tiny_has_the_weights_of_its_file() -> None:
    tiny = read_architecture(str(TINY))
    stored = load_file(TINY / "model.safetensors")
    assert tiny.num_weights() == sum(value.size for value in stored.values())
    assert tiny.stored_bytes(2) == sum(value.nbytes for value in stored.values())


def test_an_adapter_of_the_4b_at_rank_16_has_33_million_weights_in_130_mb() -> None:
    count = read_published("4B").num_lora_weights(LoraConfig(16, 32))
    assert count == 33_030_144
    assert 130e6 < count * 4 < 133e6


def test_the_counted_adapter_weights_exist(base_vlm: Any) -> None:
    tiny = read_architecture(str(TINY))
    for settings in (
        LoraConfig(4, 8),
        LoraConfig(4, 8, dora=True, train_projector=True),
        LoraConfig(4, 8, target_modules=PROJECTIONS["mlp"], num_layers=2),
    ):
        layers = lora.attach(base_vlm.model, settings, mx.random.key(0))
        assert tiny.num_lora_weights(settings) == sum(
            v.size for v in lora.lora_state_dict(layers).values()
        )
        lora.detach(base_vlm.model)


def test_the_flops_of_the_benchmark_are_unchanged() -> None:
    from benchmarks.large_base import make_config

    base = Architecture.from_config(make_config())
    job = RunSetup(base, LoraConfig(16, 32), read_train_params(), CPU)
    batch = replace(BATCH, tokens=2800, pairs=BATCH.pairs * 2, supervised_positions=600)
    frozen = count_operations(job, batch) - 6 * base.num_lora_weights(job.lora) * 2800
    assert frozen == pytest.approx(565e9, rel=0.02)
    assert count_operations(job, batch, backward=False) < 0.55 * count_operations(job, batch)


def read_train_params(**change: Any) -> TrainParams:
    return load_params(ROOT / "params.yaml").train.model_copy(update=change)


def compute_peak(
    base: Architecture, device: Device = METAL, batch: BatchShape = BATCH, **change: Any
) -> int:
    job = build_setup(base, read_train_params(**change), device)
    return sum(memory_breakdown(job, batch).values())


def test_settings_that_save_memory_lower_the_planned_peak() -> None:
    base = read_published("4B")
    plain = compute_peak(base)
    assert compute_peak(base, gradient_checkpointing=True) < 0.8 * plain
    assert compute_peak(base, num_layers=8) < 0.8 * plain
    assert compute_peak(base, lora_r=4) < plain
    assert compute_peak(replace(base, bits=4)) < compute_peak(replace(base, bits=8)) < plain
    assert plain < compute_peak(base, CPU)
    assert plain < compute_peak(base, gradient_accumulation_steps=2)
    assert plain < compute_peak(base, batch=replace(BATCH, tokens=2800, pairs=BATCH.pairs * 2))


REAL_ROWS = BatchShape(2240, ((2240, 2240),), ((1100, 2240),), 1100, 768)


def test_a_real_row_of_the_4_bit_4b_fits_where_it_fits_by_hand() -> None:
    """36 layers keep 61,000 values a token in 16 bit, and dropout's masks in 8: 14 GB for 2,240."""
    base = replace(read_published("4B"), bits=4)
    assert 16e9 < compute_peak(base, batch=REAL_ROWS) < 21.5e9
    assert compute_peak(base, batch=REAL_ROWS, gradient_checkpointing=True) < 6.6e9


def test_scores_are_counted_in_every_layer_only_where_they_are_kept() -> None:
    base, scores = read_published("4B"), 32 * 2240 * 2240 * 2
    full = compute_peak(base, choose_metal("0.31.0"), REAL_ROWS)
    assert full - compute_peak(base, METAL, REAL_ROWS) > 33 * scores
    checkpointed = compute_peak(base, METAL, REAL_ROWS, gradient_checkpointing=True)
    older = choose_metal("0.31.0")
    assert compute_peak(base, older, REAL_ROWS, gradient_checkpointing=True) - checkpointed > scores
    assert compute_peak(base, CUDA, REAL_ROWS) <= compute_peak(base, METAL, REAL_ROWS)


def test_scores_are_kept_on_older_mlx_and_if_its_gradient_in_tiles_is_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_metal("0.32.4") == choose_metal("0.33.0.dev20261101") == METAL
    assert choose_metal("0.32.3").keeps_scores
    monkeypatch.setenv("MLX_SDPA_VJP_FALLBACK", "0")
    assert not choose_metal("0.32.4").keeps_scores
    monkeypatch.setenv("MLX_SDPA_VJP_FALLBACK", "1")
    assert choose_metal("0.32.4").keeps_scores


def test_a_plan_has_the_tokens_that_training_has(
    base_vlm: Any, rows: list[ChatRow], params: Params, plan: TrainingPlan
) -> None:
    examples = build_examples(rows, params.train, FeatureCache(base_vlm, None, 0))
    assert [planned.example for planned in plan.train] == examples
    assert plan.steps == len(plan.train_batches) == params.train.epochs * -(-len(rows) // 2)
    supervised = sum(batch.supervised_positions for batch in plan.train_batches)
    assert supervised == 5 * sum(len(example.weights) for example in examples)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batch_size": 4, "lora_r": 32, "lora_dropout": 0.0},
        {"dora": True},
        {"train_projector": True, "num_layers": 1},
        {"train_projector": True},
        {"dora": True, "gradient_checkpointing": True},
        {"num_layers": 2},
    ],
)
def test_the_predicted_peak_is_near_the_measured_one(
    base_vlm: Any, rows: list[ChatRow], params: Params, change: dict[str, Any]
) -> None:
    settings = params.train.model_copy(update={"epochs": 1, **change})
    job = build_setup(read_architecture(str(TINY)), settings, DEVICE)
    predicted = make_plan(job, base_vlm.tokenizer, rows, rows[:1]).peak_bytes
    cache = FeatureCache(base_vlm, None, 0, settings.train_projector)
    examples = build_examples(rows, settings, cache)
    measured = Trainer(cache, examples, examples[:1], settings).run().peak_gb * 1e9
    assert predicted == pytest.approx(measured, rel=0.2)


def test_approximate_tokens_keep_image_tokens_and_the_shared_prefix(
    rows: list[ChatRow], params: Params
) -> None:
    settings = params.train.model_copy(update={"batch_size": 4})
    job = build_setup(read_architecture(str(TINY)), settings, CPU)
    plan = make_plan(job, ApproximateTokenizer(), rows, rows[:1])
    assert all(planned.ids.count(-1) == planned.image_token_count == 20 for planned in plan.train)
    packed_tokens = plan.train_batches[0].tokens
    assert packed_tokens < sum(len(planned.ids) for planned in plan.train[:4]) - 20
    assert ApproximateTokenizer().tokenize_completion("Warm light, far away.")[1][-1] == (21, 21)


def test_a_run_that_does_not_fit_is_refused_with_three_suggestions(plan: TrainingPlan) -> None:
    check_memory_fit(plan, Machine(plan.peak_bytes))
    with pytest.raises(TrainingError) as error:
        check_memory_fit(plan, Machine(int(0.6 * plan.peak_bytes)))
    lines = str(error.value).splitlines()
    assert re.match(r"training would take 0.\d GB and 0.\d GB are available", lines[0])
    assert len(lines) == 4
    for line in lines[1:]:
        assert re.match(r"  (train|base)\.\w+: ", line)


def test_each_suggestion_fits_and_none_contains_another(
    rows: list[ChatRow], params: Params
) -> None:
    job = build_setup(read_published("8B"), params.train, METAL)
    plan = make_plan(job, ApproximateTokenizer(), rows, rows[:1])
    suggestions = suggest_fitting_settings(plan, Machine(int(12e9)))
    assert len(suggestions) == 3
    assert all(float(re.findall(r"\(([\d.]+) GB\)", s)[0]) <= 12.0 for s in suggestions)
    sets = [set(s.split(" (")[0].split(", ")) for s in suggestions]
    assert not any(a < b for a in sets for b in sets)
    assert suggest_fitting_settings(plan, Machine(int(2e9))) == []


def test_each_process_needs_its_own_base(plan: TrainingPlan) -> None:
    with pytest.raises(TrainingError, match="training would take"):
        check_memory_fit(plan, Machine(plan.peak_bytes, num_processes=4))


def test_the_cache_of_a_gpu_counts_as_memory_of_the_run(plan: TrainingPlan) -> None:
    machine = Machine(plan.peak_bytes + int(2e9), cache_limit=int(2e9))
    check_memory_fit(plan, machine)
    with pytest.raises(TrainingError, match="training would take 2.1 GB and 2.1 GB are"):
        check_memory_fit(plan, replace(machine, budget=machine.budget - 1))
    assert " GB and 2.0 GB MLX's cache of 2.1 GB avail" in describe_plan(plan, "a", 1.0, machine)


def test_the_estimated_time_is_products_and_elementwise_work(plan: TrainingPlan) -> None:
    flops = sum(count_operations(plan.setup, batch) for batch in plan.train_batches)
    product_seconds = plan.estimate_seconds(Throughput(1e12, 1e12, 0.0))
    assert flops / 1e12 < product_seconds < 1.5 * flops / 1e12
    assert plan.estimate_seconds(Throughput(1e12, 1e12, 1e-9)) > product_seconds
    assert 5 < plan.estimate_seconds(Throughput(1e12, 1e11, 0.0)) / product_seconds < 10
    params = plan.setup.params.model_copy(update={"gradient_checkpointing": True})
    checkpointed = plan.replan(replace(plan.setup, params=params))
    assert checkpointed.estimate_seconds(Throughput(1e12, 1e12, 0.0)) > 1.3 * product_seconds


def test_packed_products_are_measured_apart() -> None:
    plain, packed = measure_throughput(), measure_throughput(bits=4)
    assert plain.packed_flops_per_second == plain.flops_per_second
    assert packed.packed_flops_per_second not in (0, packed.flops_per_second)
    assert memory_budget() > 1e8


def test_a_description_lists_time_rows_steps_and_memory(
    base_vlm: Any, rows: list[ChatRow], plan: TrainingPlan
) -> None:
    text = describe_plan(plan, "ansel", 7200.0, Machine(int(16e9)))
    assert "about 2.0 h" in text
    assert f"{plan.steps} in 5 epochs" in text
    assert "5 train, 2 val\n" in text
    train = [*rows[:3], *map(without_scores, rows[3:])]
    mixed = make_plan(plan.setup, base_vlm.tokenizer, train, rows[:2])
    text = describe_plan(mixed, "ansel", 7200.0, Machine(int(16e9)))
    assert "5 (2 text only) train, 2 val\n" in text
    parts = [float(x) for x in re.findall(r"^ {4}\S.*?([\d.]+) GB$", text, re.MULTILINE)]
    assert len(parts) == 5
    assert sum(parts) == pytest.approx(plan.peak_bytes / 1e9, abs=0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a Qwen3-VL's: KeyError"),
        ("[]", "is not a Qwen3-VL's"),
        ('{"text_config": 1, "vision_config": {}}', "is not a Qwen3-VL's"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseModelError, match=message):
        read_architecture(str(tmp_path))


def test_an_unknown_base_is_refused_with_the_known_sizes() -> None:
    with pytest.raises(BaseModelError, match="no base model at Qwen/Qwen9; .*2B, 4B, 8B"):
        read_architecture("Qwen/Qwen9")
    packed = read_architecture("mlx-community/Qwen3-VL-4B-Instruct-4bit")
    assert (packed.bits, packed.group) == (4, 64)


def test_a_bases_own_tokenizer_is_used_if_there_is_one(base_vlm: Any, rows: list[ChatRow]) -> None:
    tokenizer = load_tokenizer(TINY, base_vlm.image_id)
    assert isinstance(tokenizer, ChatTokenizer)
    prompt = rows[0].messages[:-1]
    assert tokenizer.tokenize_prompt(prompt, 20) == base_vlm.tokenizer.tokenize_prompt(prompt, 20)
    assert isinstance(load_tokenizer(None, 0), ApproximateTokenizer)


@pytest.mark.slow
def test_the_plan_flag_prints_a_plan_or_refuses_it(prepared_dir: Path) -> None:
    def run_plan(*flags: str) -> subprocess.CompletedProcess[str]:
        data = [f"--{part}_data={prepared_dir / part}.json" for part in ("train", "val")]
        command = [sys.executable, str(ROOT / "stages/train.py"), "--plan", *data, *flags]
        env = os.environ | {"HF_HUB_OFFLINE": "1"}  # a plan fetches the config of a base on the hub
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=PATIENCE
        )

    process = run_plan()
    assert process.returncode == 0, process.stderr
    assert "peak memory" in process.stdout
    refused = run_plan("--base", "Qwen/Qwen3-VL-4B-Instruct", "--memory_gb", "12")
    assert refused.returncode == 1
    assert "33.03 million weights at rank 16, 132.1 MB" in refused.stdout
    assert "error: training would take" in refused.stderr
    assert refused.stderr.count(" GB)") == 3
    assert "Traceback" not in refused.stderr


def test_attention_scores_are_counted_by_blocks() -> None:
    unmasked = np.tril(np.ones((500, 700)), 200)
    blocks = sum(
        (stop - start) * (200 + stop) for start, stop in ((0, 192), (192, 384), (384, 500))
    )
    assert _count_scores(500, 700, 192) == blocks >= unmasked.sum()
    assert _count_scores(500, 700, 0) == 500 * 700
    counted_by_kernel = Blocks(500, 700, 1, True).count_scores()
    assert _count_scores(500, 700, QUERY_BLOCK_SIZE) == counted_by_kernel
