"""Train a workload on torch: torch_peft.py FOLDER trl | supervised [BATCH_SIZE STEPS]...

trl         TRL's SFTTrainer and PEFT with their defaults, on a CPU
supervised  a plain loop over transformers and PEFT; lm_head only at supervised positions; on CUDA
            in bfloat16 if there is a card. Each BATCH_SIZE and STEPS is a run over repeated rows.

Runs in a separate environment: benchmarks/requirements-torch.txt.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
import torch
from peft import PeftModel
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.measurement import peak_rss_gb, print_result
from benchmarks.workload import LEARNING_RATE, Workload

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT_TYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def collate(workload: Workload, rows: list[int]) -> dict[str, torch.Tensor]:
    """Return rows padded on the right, with labels at supervised positions."""
    length = max(len(workload.ids[row]) for row in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        row_ids = torch.tensor(workload.ids[row])
        ids[i, : len(row_ids)], mask[i, : len(row_ids)] = row_ids, 1
        prompt_length = workload.prompt_lengths[row]
        labels[i, prompt_length : len(row_ids)] = row_ids[prompt_length:]
    config = json.loads((Path(workload.base) / "config.json").read_text())
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.cat([torch.from_numpy(workload.pixels(row)) for row in rows]),
        "image_grid_thw": torch.tensor([[1, *workload.grids[row]] for row in rows]),
        "mm_token_type_ids": (ids == config["image_token_id"]).int(),
    }


def train_supervised(model: Any, workload: Workload) -> None:
    """Compute lm_head and cross-entropy at supervised positions only."""
    reset_peak()
    inner = model.get_base_model()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    seconds, losses = [], []
    for rows in workload.batches:
        started = time.perf_counter()
        batch = {name: value.to(DEVICE) for name, value in collate(workload, rows).items()}
        labels = batch.pop("labels")[:, 1:]
        hidden = inner.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        supervised = labels != -100
        logits = inner.lm_head(hidden[supervised])
        loss = torch.nn.functional.cross_entropy(logits, labels[supervised])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the device
        seconds.append(time.perf_counter() - started)
    print_result(
        seconds=seconds,
        losses=losses,
        batch=len(workload.batches[0]),
        rss_gb=peak_rss_gb(),
        **device_peak(),
    )


def reset_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def device_peak() -> dict[str, float]:
    """Return the card's peak memory, if there is a card."""
    return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if DEVICE == "cuda" else {}


def train_with_trl(model: Any, workload: Workload) -> None:
    """Run SFTTrainer over the same batches in the same order."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    class SequentialTrainer(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class StepTimer(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds[-1] = time.perf_counter() - self.seconds[-1]

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

    order = [row for batch in workload.batches for row in batch]
    # TRL treats rows with input_ids as prepared; the collator reads the rest by row number.
    dataset = Dataset.from_list([{"input_ids": workload.ids[row], "row": row} for row in order])
    timer = StepTimer()
    trainer = SequentialTrainer(
        model,
        trl_config(workload),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(workload.base),
        data_collator=lambda items: collate(workload, [item["row"] for item in items]),
        callbacks=[timer],
    )
    trainer.train()
    print_result(seconds=timer.seconds, losses=timer.losses, rss_gb=peak_rss_gb())


def trl_config(workload: Workload) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(workload.folder / "trl"),
        per_device_train_batch_size=len(workload.batches[0]),
        max_steps=len(workload.batches),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0e9,
        optim="adamw_torch",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def main() -> None:
    workload = Workload.read(Path(sys.argv[1]))
    base = Qwen3VLForConditionalGeneration.from_pretrained(workload.base, dtype=FLOAT_TYPE)
    model = PeftModel.from_pretrained(base.to(DEVICE), str(workload.adapter), is_trainable=True)
    model.train()
    if sys.argv[2] == "trl":
        train_with_trl(model, workload)
        return
    sizes = [int(text) for text in sys.argv[3:]]
    for batch_size, num_steps in zip(sizes[::2], sizes[1::2], strict=True):
        train_supervised(model, workload.repeat_rows(batch_size, num_steps))
    if not sizes:
        train_supervised(model, workload)


if __name__ == "__main__":
    main()
