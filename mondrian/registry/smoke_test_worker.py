"""python -m mondrian.registry.smoke_test_worker PARAMS ADVISOR: load the base, try an adapter.

stdin gives its folder and name once it is here, stdout takes a critique or a fault. The model, the
prompt, the picture and the form are those of the service.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mondrian.core.errors import AdapterError, MondrianError, one_line
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import is_schema_valid
from mondrian.model import adapter, vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.generate import generate
from mondrian.model.provenance import check_requirements, local_requirements, read_requirements

PHOTO = Path(__file__).with_name("smoke_test.png")  # 320 x 256, scene 1 of mondrian.sample


class SmokeTestRunner:
    """A base that has looked at a rendered photograph, and waits for an adapter."""

    def __init__(self, params: Params, advisor: str) -> None:
        self.here = local_requirements(advisor, params)
        self.base = vlm.load(params.base.source)
        limit = params.serve.max_new_tokens
        words = self.base.model.config.text_config.vocab_size
        self.sampling_params = SamplingParams(
            limit, 1, CritiqueGrammar(self.base.processor.tokenizer, words, limit)
        )
        image = params.image
        picture = resize_to_fit(read_photo(PHOTO), image.min_pixels, image.max_pixels)
        self.features = vlm.encode_image(self.base, picture, raw=True)
        messages = row_messages(params.persona(advisor), "")[:-1]
        self.prompt = vlm.prompt_ids(self.base, messages, self.features)
        self.base_says = self._compute_logits()
        self.base_says.tolist()  # computed now, while the adapter is on its way

    def generate_critique(self, folder: Path) -> str:
        """What an adapter says of the photograph.

        Raises MondrianError where it is for another base, prompt, form or size of picture, does
        nothing, or gives no critique.
        """
        check_requirements(read_requirements(folder, self.here), self.here, str(folder))
        adapter.load(self.base.model, self.base.hash, folder)
        adapter.check_adapter_changes_logits(self._compute_logits(), self.base_says, folder)
        text = generate(self.base, [self.prompt], [self.features], self.sampling_params)[0].text
        if not is_schema_valid(text):
            raise AdapterError(
                f"{folder} gives no critique of a rendered photograph: {text[:80]!r}"
            )
        return text

    def _compute_logits(self) -> Any:
        return vlm.next_logits(self.base, self.prompt, self.features)


def handle_request(proof: SmokeTestRunner, request: str) -> dict[str, str]:
    """A critique as `text`, or a `fault` that names the adapter as the user knows it."""
    folder, name = json.loads(request)
    try:
        return {"text": proof.generate_critique(Path(folder))}
    except (MondrianError, OSError, RuntimeError, MemoryError) as error:
        message = one_line(error, 400)
        return {"fault": message.replace(folder, name)}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the answer
    try:
        proof = SmokeTestRunner(load_params(Path(sys.argv[1])), sys.argv[2])
    except MondrianError as error:
        response = {"fault": str(error)}
    else:
        request = sys.stdin.readline()
        if not request:
            return  # whoever asked is gone
        response = handle_request(proof, request)
    out.write(json.dumps(response))
    out.close()


if __name__ == "__main__":
    main()
