"""Secrets that a user hands to us: from a file, or from an environment variable. They are never shown or logged."""

from __future__ import annotations

import os
from pathlib import Path


def read_secret(variable: str, file: Path | None = None, option: str = "", *, min_length: int = 1) -> str:
    """The secret in `file`, or otherwise in the environment variable; "" when neither is given.

    Args:
        variable: name of the environment variable.
        file: a file that holds the secret on one line.
        option: the command-line option that named the file, for error messages.
        min_length: characters that it must have at least.

    Raises:
        ConfigError: the file cannot be read, or the secret is empty, too short, or not printable ASCII without spaces.
            The message never contains the secret.
    """
    from flows.settings import ConfigError  # here: the start of a run reads no settings yet

    if file is None:
        if variable not in os.environ:
            return ""
        where, secret = variable, os.environ[variable].strip()
    else:
        where = f"{option} {file}"
        try:
            secret = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"{where}: cannot read a secret from this file ({reason})") from None
    if len(secret) < min_length or not secret.isascii() or not secret.isprintable() or " " in secret:
        characters = "one or more characters" if min_length == 1 else f"at least {min_length} characters"
        unset = f"; if you need none, unset {variable}" if file is None else ""
        raise ConfigError(f"{where}: takes one line of {characters} of printable ASCII without spaces{unset}")
    return secret
