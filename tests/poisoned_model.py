"""The model process as it is, but that one photograph ends it: white in its first pixel."""

import os
from typing import Any

from mondrian.serving.engines.ipc import GenerateRequest
from mondrian.serving.worker import __main__ as resident
from mondrian.serving.worker.adapters import AdapterRegistry

seen = AdapterRegistry.encode_image


def poisoned(self: AdapterRegistry, ask: GenerateRequest) -> Any:
    if ask.pixels[:3] == b"\xff\xff\xff":
        os._exit(9)
    return seen(self, ask)


AdapterRegistry.encode_image = poisoned  # type: ignore[method-assign]
resident.main()
