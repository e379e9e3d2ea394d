"""What can go wrong with somebody else's model."""

from __future__ import annotations


class UnsupportedModel(ValueError):
    """A model that cannot be read, or cannot be written, without becoming another model: the message names the field
    or tensor, what was found, and what is taken."""
