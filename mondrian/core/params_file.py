"""Edits of params.yaml that keep its comments, order and form."""

from collections.abc import Mapping
from copy import deepcopy
from io import StringIO
from typing import Any

import yaml as pyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from mondrian.core.errors import ParamsError, one_line


def replace_values(
    text: str,
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    name: str = "params.yaml",
) -> str:
    """Return the text of a params.yaml with other values.

    values     by section and key; a key that the file lacks is added at the start of its section
    defaults   the same, only for keys that the file lacks
    name       of the file, for messages

    Raises ParamsError if the text is not YAML or a section is missing.
    """
    yaml = YAML()  # the settings with which `dvc exp run -S` writes the file, except:
    yaml.preserve_quotes = True
    yaml.width = 4096  # columns; leaves long lines as they are
    try:
        pyyaml.safe_load(text)  # refuses tags, which ruamel.yaml keeps
        document = yaml.load(text)
    except (YAMLError, pyyaml.YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{name} is not YAML: {one_line(error)}") from None
    changed = _update(document, values, name)
    if not _update(document, defaults, name, overwrite=False) and not changed:
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
            if value and key not in section:
                raise ParamsError(f"{name} has no section {key}; add it")
            if value:
                changed |= _update(section[key], value, f"{name}: {key}", overwrite)
        elif key not in section:
            section.insert(added, _quote(key), _quote(value))
            changed, added = True, added + 1
        elif overwrite and section[key] != value:
            _assign(section, key, value)
            changed = True
    return changed


def _assign(section: CommentedMap, key: str, value: Any) -> None:
    if isinstance(value, list) and isinstance(section[key], CommentedSeq):
        _replace_items(section[key], value)
    else:
        section[key] = _quote(value)


def _replace_items(items: CommentedSeq, value: list[Any]) -> None:
    """Replace the items in place, so that the style of the list stays.

    A comment stays with its item; what follows the line of the last item stays after the list.
    """
    old = list(items)
    comments = {i: comment for i, comment in items.ca.items.items() if comment[0]}
    after, template = "", comments.get(len(old) - 1)
    if template:
        line, _, after = template[0].value.partition("\n")
        template[0].value = f"{line}\n"
    items.ca.items.clear()
    items.clear()
    items.extend(map(_quote, value))
    for i, item in enumerate(value):
        if item in old and (comment := comments.get(old.index(item))):
            items.ca.items[i] = comment
    if after and value:
        if len(value) - 1 not in items.ca.items:
            items.ca.items[len(value) - 1] = deepcopy(template)
            items.ca.items[len(value) - 1][0].value = "\n"
        items.ca.items[len(value) - 1][0].value += after


def _quote(value: Any) -> Any:
    """Return a value in quotes if params.yaml would be read as something else, such as `no`."""
    if not isinstance(value, str):
        return value
    try:
        is_plain = pyyaml.safe_load(value) == value
    except pyyaml.YAMLError:
        is_plain = False
    return value if is_plain else SingleQuotedScalarString(value)
