"""Print the names and shapes that torch PEFT gives an adapter: peft_shapes.py BASE ADAPTER

The base is built from its config.json on torch's meta device, without weights.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


def main() -> None:
    base, adapter = map(Path, sys.argv[1:])
    fields = json.loads((base / "config.json").read_text())
    for name in ("quantization", "quantization_config"):
        fields.pop(name, None)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(fields))
        adapted = get_peft_model(model, LoraConfig.from_pretrained(str(adapter)))
    weights = get_peft_model_state_dict(adapted)
    shapes = {name: list(value.shape) for name, value in weights.items()}
    sys.stdout.write("\n" + json.dumps({"shapes": shapes}) + "\n")


if __name__ == "__main__":
    main()
