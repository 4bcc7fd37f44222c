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

from mondrian.core.errors import AdapterError, MondrianError
from mondrian.core.images import fit
from mondrian.core.params import Params, load_params
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import complies
from mondrian.model import adapter, vlm
from mondrian.model.batch_generator import How
from mondrian.model.compatibility import check_terms, terms_here, terms_in
from mondrian.model.constrained import Form
from mondrian.model.generate import generate
from mondrian.sample.scene import draw_scene, render

SIZE = (320, 256)  # of the photograph, before it is made fit


class Proof:
    """A base that has looked at a rendered photograph, and waits for an adapter."""

    def __init__(self, params: Params, advisor: str) -> None:
        self.here = terms_here(advisor, params)
        self.base = vlm.load(params.base.source)
        limit = params.serve.max_new_tokens
        words = self.base.model.config.text_config.vocab_size
        self.how = How(limit, 1, Form(self.base.processor.tokenizer, words, limit))
        image = params.image
        picture = fit(render(draw_scene(1), *SIZE), image.min_pixels, image.max_pixels)
        self.seen = vlm.encode(self.base, picture, raw=True)
        messages = row_messages(params.persona(advisor), "")[:-1]
        self.prompt = vlm.prompt_ids(self.base, messages, self.seen)
        self.base_says = self._says()
        self.base_says.tolist()  # computed now, while the adapter is on its way

    def of(self, folder: Path) -> str:
        """What an adapter says of the photograph.

        Raises MondrianError where it is for another base, prompt, form or size of picture, does
        nothing, or gives no critique.
        """
        check_terms(terms_in(folder, self.here), self.here, str(folder))
        adapter.load(self.base.model, self.base.hash, folder)
        adapter.prove_applied(self._says(), self.base_says, folder)
        text = generate(self.base, [self.prompt], [self.seen], self.how)[0].text
        if not complies(text):
            raise AdapterError(
                f"{folder} gives no critique of a rendered photograph: {text[:80]!r}"
            )
        return text

    def _says(self) -> Any:
        return vlm.next_logits(self.base, self.prompt, self.seen)


def answer(proof: Proof, asked: str) -> dict[str, str]:
    """A critique as `text`, or a `fault` that names the adapter as the user knows it."""
    folder, name = json.loads(asked)
    try:
        return {"text": proof.of(Path(folder))}
    except (MondrianError, OSError, RuntimeError, MemoryError) as error:
        told = " ".join(str(error).split())[:400] or type(error).__name__
        return {"fault": told.replace(folder, name)}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the answer
    try:
        proof = Proof(load_params(Path(sys.argv[1])), sys.argv[2])
    except MondrianError as error:
        told = {"fault": str(error)}
    else:
        asked = sys.stdin.readline()
        if not asked:
            return  # whoever asked is gone
        told = answer(proof, asked)
    out.write(json.dumps(told))
    out.close()


if __name__ == "__main__":
    main()
