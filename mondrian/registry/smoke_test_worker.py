"""python -m mondrian.registry.smoke_test_worker PARAMS ADVISOR: load the base, test an adapter.

stdin receives the adapter's folder and name when it is downloaded, stdout a critique or a fault.
Model, prompt, image size and grammar are those of the service.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from mondrian.core.errors import AdapterError, MondrianError, one_line
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import is_schema_valid
from mondrian.model import adapter, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.provenance import check_requirements, local_requirements, read_requirements

PHOTO = Path(__file__).with_name("smoke_test.png")  # 320 x 256, scene 1 of mondrian.sample


class SmokeTestRunner:
    """A loaded base with the prompt and features of a rendered photo."""

    def __init__(self, params: Params, advisor: str) -> None:
        self.requirements = local_requirements(advisor, params)
        set_memory_limits(params.machine.cache_limit_gb)
        self.base = vlm.load(params.base.source)
        max_new_tokens = params.serve.max_new_tokens
        vocabulary_size = self.base.model.config.text_config.vocab_size
        grammar = CritiqueGrammar(self.base.processor.tokenizer, vocabulary_size, max_new_tokens)
        self.sampling_params = SamplingParams(max_new_tokens, 1, grammar)
        photo = resize_to_fit(read_photo(PHOTO), params.image.min_pixels, params.image.max_pixels)
        self.features = vlm.encode_image(self.base, photo, with_pre_merger=True)
        messages = build_row_messages(params.persona(advisor), "")[:-1]
        self.prompt = vlm.tokenize_prompt(self.base, messages, self.features)
        self.base_logits = self._compute_logits()
        self.base_logits.tolist()  # evaluated now, during the download

    def generate_critique(self, folder: Path) -> str:
        """Return the adapter's critique of the photo.

        Raises MondrianError if it is for another base, prompt, schema or image size, has no effect,
        or gives no critique.
        """
        requirements = read_requirements(folder, self.requirements)
        check_requirements(requirements, self.requirements, str(folder))
        adapter.load(self.base.model, self.base.hash, folder)
        adapter.check_logits_differ(self._compute_logits(), self.base_logits, folder)
        text = generate(self.base, [self.prompt], [self.features], self.sampling_params)[0].text
        if not is_schema_valid(text):
            raise AdapterError(f"{folder} gives no critique of a rendered photo: {text[:80]!r}")
        return text

    def _compute_logits(self) -> Any:
        return vlm.next_logits(self.base, self.prompt, self.features)


def handle_request(runner: SmokeTestRunner, request: str) -> dict[str, str]:
    """Return a critique as `text`, or a `fault` that names the adapter as the user knows it."""
    folder, name = json.loads(request)
    try:
        return {"text": runner.generate_critique(Path(folder))}
    except (MondrianError, OSError, RuntimeError, MemoryError) as error:
        return {"fault": one_line(error, 400).replace(folder, name)}


def main() -> None:
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not write into the response
    try:
        runner = SmokeTestRunner(load_params(Path(sys.argv[1])), sys.argv[2])
    except MondrianError as error:
        response = {"fault": str(error)}
    else:
        request = sys.stdin.readline()
        if not request:
            return  # the parent process ended
        response = handle_request(runner, request)
    output.write(json.dumps(response))
    output.close()


if __name__ == "__main__":
    main()
