"""What an adapter was trained for and has to meet again where it serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import RECIPE
from mondrian.core.errors import AdapterError
from mondrian.core.files import read_json
from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash
from mondrian.critique.schema import schema_hash
from mondrian.model.provenance import read_recipe


@dataclass(frozen=True)
class AdapterRequirements:
    """image  min_pixels and max_pixels"""

    advisor: str
    prompt_sha256: str
    schema_sha256: str
    image: dict[str, int]


def release_requirements(release: Any) -> AdapterRequirements:
    """Those of a recipe or of a release."""
    return AdapterRequirements(
        release.advisor, release.prompt_sha256, release.schema_sha256, release.image
    )


def local_requirements(advisor: str, params: Params) -> AdapterRequirements:
    """Those of this checkout.

    Raises ParamsError where params.yaml does not know the advisor.
    """
    image = {"min_pixels": params.image.min_pixels, "max_pixels": params.image.max_pixels}
    return AdapterRequirements(advisor, prompt_hash(params.persona(advisor)), schema_hash(), image)


def read_requirements(folder: Path, here: AdapterRequirements) -> AdapterRequirements:
    """Those of an adapter's folder; what an older recipe does not say is as it is here.

    Raises AdapterError where its recipe cannot be read.
    """
    recipe, whole = read_recipe(folder), read_json(folder / RECIPE)
    schema, image = whole.get("schema_sha256", here.schema_sha256), whole.get("image", here.image)
    return AdapterRequirements(recipe.advisor, recipe.prompt_sha256, schema, image)


def check_requirements(
    adapter_terms: AdapterRequirements, here: AdapterRequirements, name: str
) -> None:
    """Raise AdapterError unless an adapter was trained on this prompt, form and size of picture."""
    if adapter_terms.advisor != here.advisor:
        raise AdapterError(f"{name} is {adapter_terms.advisor}'s, not {here.advisor}'s")
    if adapter_terms.prompt_sha256 != here.prompt_sha256:
        raise AdapterError(
            f"{name} was trained on another prompt (sha256 {adapter_terms.prompt_sha256[:8]}…) "
            f"than "
            f"personas.{here.advisor} of params.yaml gives ({here.prompt_sha256[:8]}…); bring "
            "params.yaml to where it was trained, or train again"
        )
    for what in ("image", "schema_sha256"):
        if getattr(adapter_terms, what) != getattr(here, what):
            raise AdapterError(
                f"{name} was trained with {what} {getattr(adapter_terms, what)}, here "
                f"{getattr(here, what)}; bring this checkout to where it was trained, or train"
            )
