import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mondrian.core.errors import BaseModelError, TrainingError
from mondrian.core.params import Params, Train
from mondrian.critique.rows import ChatRow
from mondrian.model.architecture import Architecture, Device, read_architecture
from mondrian.model.hardware import CPU, METAL, Throughput
from mondrian.model.lora_config import PROJECTIONS, LoraConfig, make_lora_config
from mondrian.model.tokenizer import ApproximateTokenizer, ChatTokenizer
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples
from mondrian.training.memory_estimate import (
    BatchShape,
    TrainingJob,
    count_operations,
    memory_breakdown,
)
from mondrian.training.memory_fit import check_memory_fit, suggest_fitting_settings
from mondrian.training.plan import TrainingPlan, make_plan
from mondrian.training.plan_report import describe
from mondrian.training.trainer import train
from tests.conftest import ROOT

TINY = ROOT / "models/base/mondrian-tiny"
SIZES = {"2B": 2_127_532_032, "4B": 4_437_815_808, "8B": 8_767_123_696}  # as the hub has them
LOAD = BatchShape(1400, ((1400, 1400),), ((300, 1400),), 300, 300)


def published(size: str) -> Architecture:
    return read_architecture(f"Qwen/Qwen3-VL-{size}-Instruct")


@pytest.fixture
def plan(base_vlm: Any, rows: list[ChatRow], params: Params) -> TrainingPlan:
    tiny = read_architecture(str(TINY))
    return make_plan(tiny, base_vlm.tokens, rows, rows[:2], params.train, CPU)


@pytest.mark.parametrize(("size", "weights"), SIZES.items())
def test_the_published_sizes_have_the_weights_they_are_known_by(size: str, weights: int) -> None:
    assert published(size).num_weights() == weights


def test_mondrian_tiny_has_the_weights_of_its_file() -> None:
    tiny = read_architecture(str(TINY))
    stored = load_file(TINY / "model.safetensors")
    assert tiny.num_weights() == sum(value.size for value in stored.values())
    assert tiny.stored_bytes(2) == sum(value.nbytes for value in stored.values())


def test_an_adapter_of_the_4b_at_rank_16_has_33_million_weights_in_130_mb() -> None:
    count = published("4B").num_lora_weights(LoraConfig(16, 32))
    assert count == 33_030_144
    assert 130e6 < count * 4 < 133e6


def test_an_adapter_has_the_weights_that_are_counted(base_vlm: Any) -> None:
    import mlx.core as mx

    from mondrian.model import lora

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


def test_the_work_of_the_benchmark_is_what_platforms_measured_against() -> None:
    from benchmarks.large_base import config

    base = Architecture.from_config(config())
    work = TrainingJob(base, LoraConfig(16, 32), a_train(), CPU)
    two = replace(LOAD, tokens=2800, pairs=LOAD.pairs * 2, supervised_positions=600)
    plain = count_operations(work, two) - 6 * base.num_lora_weights(work.lora) * 2800
    assert plain == pytest.approx(565e9, rel=0.02)
    assert count_operations(work, two, back=False) < 0.55 * count_operations(work, two)


def a_train(**change: Any) -> Train:
    import yaml

    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    return Params.model_validate(whole).train.model_copy(update=change)


def peak(base: Architecture, on: Device = METAL, load: BatchShape = LOAD, **change: Any) -> int:
    params = a_train(**change)
    return sum(
        memory_breakdown(TrainingJob(base, make_lora_config(params), params, on), load).values()
    )


def test_what_saves_memory_saves_it_in_the_plan() -> None:
    base = published("4B")
    plain = peak(base)
    assert peak(base, gradient_checkpointing=True) < 0.8 * plain
    assert peak(base, loss_chunk_size=32) < plain
    assert peak(base, num_layers=8) < 0.8 * plain
    assert peak(base, lora_r=4) < plain
    assert peak(replace(base, bits=4)) < peak(replace(base, bits=8)) < plain
    assert plain < peak(base, CPU)
    assert plain < peak(base, load=replace(LOAD, tokens=2800, pairs=LOAD.pairs * 2))


def test_a_plan_lays_out_the_tokens_that_training_sees(
    base_vlm: Any, rows: list[ChatRow], params: Params, plan: TrainingPlan
) -> None:
    learn = build_examples(base_vlm, rows, params.train, FeatureCache(base_vlm, None, 0))
    assert [sized.row for sized in plan.rows] == learn
    assert plan.steps == len(plan.train_batches) == params.train.epochs * -(-len(rows) // 2)
    told = sum(load.supervised_positions for load in plan.train_batches)
    assert told == 5 * sum(len(row.weights) for row in learn)


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
def test_the_peak_that_is_predicted_is_the_peak_that_is_measured(
    base_vlm: Any, rows: list[ChatRow], params: Params, change: dict[str, Any]
) -> None:
    some = params.train.model_copy(update={"epochs": 1, **change})
    tiny = read_architecture(str(TINY))
    predicted = make_plan(tiny, base_vlm.tokens, rows, rows[:1], some, CPU).peak
    cache = FeatureCache(base_vlm, None, 0, some.train_projector)
    learn = build_examples(base_vlm, rows, some, cache)
    measured = train(cache, learn, learn[:1], some).peak_gb * 1e9
    assert predicted == pytest.approx(measured, rel=0.2)


def test_rough_tokens_are_near_the_exact_ones_in_number_and_share_their_front(
    rows: list[ChatRow], params: Params
) -> None:
    tiny = read_architecture(str(TINY))
    four = params.train.model_copy(update={"batch_size": 4})
    rough = make_plan(tiny, ApproximateTokenizer(), rows, rows[:1], four, CPU)
    assert all(sized.row.ids.count(-1) == sized.image_token_count == 20 for sized in rough.rows)
    front = rough.train_batches[0].tokens
    assert front < sum(len(sized.row.ids) for sized in rough.rows[:4]) - 20
    assert ApproximateTokenizer().answer("Warm light, far away.")[1][-1] == (21, 21)


def test_what_does_not_fit_is_refused_with_three_ways(plan: TrainingPlan) -> None:
    check_memory_fit(plan, plan.peak)
    with pytest.raises(TrainingError) as caught:
        check_memory_fit(plan, int(0.6 * plan.peak))
    told = str(caught.value).splitlines()
    assert re.match(r"training would take 0.\d GB and 0.\d GB are to be had", told[0])
    assert len(told) == 4
    for line in told[1:]:
        assert re.match(r"  (train|base)\.\w+: ", line)


def test_each_way_fits_and_none_holds_another(rows: list[ChatRow], params: Params) -> None:
    plan = make_plan(published("8B"), ApproximateTokenizer(), rows, rows[:1], params.train, METAL)
    ways = suggest_fitting_settings(plan, int(12e9))
    assert len(ways) == 3
    assert all(float(re.findall(r"\(([\d.]+) GB\)", way)[0]) <= 12.0 for way in ways)
    sets = [set(way.split(" (")[0].split(", ")) for way in ways]
    assert not any(a < b for a in sets for b in sets)
    assert suggest_fitting_settings(plan, int(2e9)) == []


def test_two_ranks_take_a_base_each(plan: TrainingPlan) -> None:
    with pytest.raises(TrainingError, match="training would take"):
        check_memory_fit(plan, plan.peak, ranks=4)


def test_time_is_the_products_and_the_rest(plan: TrainingPlan) -> None:
    done = sum(count_operations(plan.job, load) for load in plan.train_batches)
    quick = plan.estimate_seconds(Throughput(1e12, 0.0))
    assert done / 1e12 < quick < 1.5 * done / 1e12
    assert plan.estimate_seconds(Throughput(1e12, 1e-9)) > quick


def test_a_plan_reads_like_one(plan: TrainingPlan) -> None:
    text = describe(plan, "ansel", 7200.0, int(16e9))
    assert "about 2.0 h" in text
    assert f"{plan.steps} in 5 epochs" in text
    parts = [float(x) for x in re.findall(r"^ {4}\S.*?([\d.]+) GB$", text, re.MULTILINE)]
    assert len(parts) == 5
    assert sum(parts) == pytest.approx(plan.peak / 1e9, abs=0.03)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "is not a Qwen3-VL's: KeyError"),
        ("[]", "is not a Qwen3-VL's"),
        ('{"text_config": 1, "vision_config": {}}', "is not a Qwen3-VL's"),
    ],
)
def test_a_config_of_something_else_says_so(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseModelError, match=words):
        read_architecture(str(tmp_path))


def test_an_unknown_base_names_the_known_ones() -> None:
    with pytest.raises(BaseModelError, match="no base model at Qwen/Qwen9; .*2B, 4B, 8B"):
        read_architecture("Qwen/Qwen9")
    four = read_architecture("mlx-community/Qwen3-VL-4B-Instruct-4bit")
    assert (four.bits, four.group) == (4, 64)


def test_a_tokenizer_of_its_own_is_used(base_vlm: Any, rows: list[ChatRow]) -> None:
    from mondrian.model.tokenizer import load_tokenizer

    own = load_tokenizer(TINY, base_vlm.image_id)
    assert isinstance(own, ChatTokenizer)
    prompt = rows[0].messages[:-1]
    assert own.prompt(prompt, 20) == base_vlm.tokens.prompt(prompt, 20)
    assert isinstance(load_tokenizer(None, 0), ApproximateTokenizer)


@pytest.mark.slow
def test_the_command_plans_and_refuses(prepared_dir: Path) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        data = [f"--{part}_data={prepared_dir / part}.json" for part in ("train", "val")]
        command = [sys.executable, str(ROOT / "stages/train.py"), "--plan", *data, *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "peak memory" in done.stdout
    refused = run("--base", "Qwen/Qwen3-VL-4B-Instruct", "--memory_gb", "12")
    assert refused.returncode == 1
    assert "33.03 million weights at rank 16, 132.1 MB" in refused.stdout
    assert "error: training would take" in refused.stderr
    assert refused.stderr.count(" GB)") == 3
    assert "Traceback" not in refused.stderr


def test_scores_are_counted_as_blocks_leave_them() -> None:
    from mondrian.training.memory_estimate import _count_scores

    whole = np.tril(np.ones((500, 700)), 200)
    blocks = sum(
        (stop - start) * (200 + stop) for start, stop in ((0, 192), (192, 384), (384, 500))
    )
    assert _count_scores(500, 700, 192) == blocks >= whole.sum()
    assert _count_scores(500, 700, 0) == 500 * 700
