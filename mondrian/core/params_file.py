"""Edits of params.yaml that keep its comments, order and form."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

import yaml as pyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from mondrian.core.errors import ParamsError, one_line


def replace_values(text: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the text of a params.yaml with other values.

    values     by section and key; a key that the file lacks is added at the start of its section
    defaults   the same, only for keys that the file lacks

    Raises ParamsError if the text is not YAML or a section is missing.
    """
    yaml = YAML()  # the settings with which `dvc exp run -S` writes the file, except:
    yaml.preserve_quotes = True
    yaml.width = 4096  # columns; leaves long lines as they are
    try:
        document = yaml.load(text)
    except YAMLError as error:
        raise ParamsError(f"params.yaml is not YAML: {one_line(error)}") from None
    changed = _update(document, values, "params.yaml")
    if not _update(document, defaults, "params.yaml", overwrite=False) and not changed:
        return text
    stream = StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _update(section: Any, values: Mapping[str, Any], name: str, overwrite: bool = True) -> bool:
    """Set the values that differ; return whether any did."""
    if not isinstance(section, CommentedMap):
        raise ParamsError(f"{name} is {section!r:.80}; it must be a section with keys")
    changed, added = False, 0
    for key, value in values.items():
        if isinstance(value, Mapping):
            changed |= _update(section.get(key), value, f"{name}: {key}", overwrite)
        elif key not in section:
            section.insert(added, _quote(key), _quote(value))
            changed, added = True, added + 1
        elif overwrite and section[key] != value:
            _assign(section, key, value)
            changed = True
    return changed


def _assign(section: CommentedMap, key: str, value: Any) -> None:
    if isinstance(value, list) and isinstance(section[key], CommentedSeq):
        items = section[key]
        comment = items.ca.items.pop(len(items) - 1, None)  # after the last item
        items.clear()  # in place: keeps the style of the list
        items.extend(map(_quote, value))
        if comment and items:
            items.ca.items[len(items) - 1] = comment
    else:
        section[key] = _quote(value)


def _quote(value: Any) -> Any:
    """Return a value in quotes if params.yaml would be read as something else, such as `no`."""
    if not isinstance(value, str):
        return value
    try:
        is_plain = pyyaml.safe_load(value) == value
    except pyyaml.YAMLError:
        is_plain = False
    return value if is_plain else SingleQuotedScalarString(value)
