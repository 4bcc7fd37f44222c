"""One job of benchmarks/train.py on torch's CPU: torch_peft.py FOLDER trl | supervised

trl         TRL's SFTTrainer and PEFT as they are
supervised  a plain loop over transformers and PEFT, lm_head where a token is supervised alone

Runs in an environment of its own: benchmarks/requirements-torch.txt.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
import torch
from peft import PeftModel
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.job import RATE, Job, report


def collate(job: Job, rows: list[int]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, labels where something is supervised."""
    length = max(len(job.ids[row]) for row in rows)
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        own = torch.tensor(job.ids[row])
        ids[i, : len(own)], mask[i, : len(own)] = own, 1
        labels[i, job.starts[row] : len(own)] = own[job.starts[row] :]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.cat([torch.from_numpy(job.pixels(row)) for row in rows]),
        "image_grid_thw": torch.tensor([[1, *job.grids[row]] for row in rows]),
        "mm_token_type_ids": (ids == image_token(job)).int(),
    }


def image_token(job: Job) -> int:
    """The token that stands for a part of the photograph."""
    told = json.loads((Path(job.base) / "config.json").read_text())
    return int(told["image_token_id"])


def supervised(model: Any, job: Job) -> None:
    """lm_head and cross-entropy at supervised positions only."""
    inner = model.get_base_model()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    seconds, losses = [], []
    for rows in job.batches:
        started = time.perf_counter()
        batch = collate(job, rows)
        labels = batch.pop("labels")
        hidden = inner.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        told = labels[:, 1:] != -100
        logits = inner.lm_head(hidden[told])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][told])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    report(seconds, losses)


def trl(model: Any, job: Job) -> None:
    """SFTTrainer over the same batches, in their order."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times[-1] = time.perf_counter() - self.times[-1]

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            self.losses += [logs["loss"]] if "loss" in logs else []

    order = [row for batch in job.batches for row in batch]
    # Rows of token ids, so that TRL takes them as prepared; the collator finds the rest by number.
    data = Dataset.from_list([{"input_ids": job.ids[row], "row": row} for row in order])
    config = SFTConfig(
        output_dir=str(job.folder / "trl"),
        per_device_train_batch_size=len(job.batches[0]),
        max_steps=len(job.batches),
        learning_rate=RATE,
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
    clock = Clock()
    trainer = InOrder(
        model,
        config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(job.base),
        data_collator=lambda some: collate(job, [one["row"] for one in some]),
        callbacks=[clock],
    )
    trainer.train()
    report(clock.times, clock.losses)


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    base = Qwen3VLForConditionalGeneration.from_pretrained(job.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(job.adapter), is_trainable=True)
    model.train()
    {"trl": trl, "supervised": supervised}[sys.argv[2]](model, job)


if __name__ == "__main__":
    main()
