"""What a release, a pull or a roll-back can be refused for."""

from __future__ import annotations

from mondrian.errors import MondrianError


class ReleaseError(MondrianError):
    """A version that cannot be made, is not to be had, or is not what was released."""
