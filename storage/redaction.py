"""Masks what must not be written down: credentials in URLs, and the values of variables that hold a secret.

In identities, tables and MLflow, secrets in settings become `***`, so a changed password does not make a new artifact.
In messages, logs and pages, the values of secret variables are masked too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_SHORTEST = 8  # a shorter value would match by chance
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|AUTH_STRING|CREDENTIALS?|WEBHOOK)$")
# scheme://user:password@, and scheme://token@: up to the last @ before the path
_USER = re.compile(r"(?<=://)[^/\s\"'<>?#]+(?=@)")
_PARAMETER = re.compile(
    r"""([?&;#](?:[\w.-]*(?:token|secret|passw|signature|credential|apikey|api[_-]key|access[_-]?key|auth)[\w.-]*|sig|key|pw)=)
        [^&;\s"'<>\#]+""",
    re.IGNORECASE | re.VERBOSE,
)


def masked_addresses(text: str) -> str:
    """`text` with `***` for user and password, and for tokens among the parameters, of every address in it."""
    if "@" in text and "://" in text:
        text = _USER.sub(MASK, text)
    return _PARAMETER.sub(rf"\1{MASK}", text) if "=" in text else text


def masked(text: str) -> str:
    """`text` as `masked_addresses` gives it, also without the values of secret variables of the environment."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name.upper()) and value in text:
            text = text.replace(value, MASK)
    return masked_addresses(text)


def masked_values(tree: Any) -> Any:
    """JSON values with every text in them masked; numbers and names stay as they are."""
    if isinstance(tree, str):
        return masked(tree)
    if isinstance(tree, Mapping):
        return {name: masked_values(value) for name, value in tree.items()}
    return [masked_values(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def masked_json(text: str) -> str:
    """JSON text, masked as `masked_values` does; what is not JSON as `masked` does."""
    try:
        return json.dumps(masked_values(json.loads(text)))
    except ValueError:
        return masked(text)
