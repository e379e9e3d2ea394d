"""An error response of the server, and how it shows what it found."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error response: its HTTP status, and the object that OpenAI's clients read."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON body of the response."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        param = None if self.param is None else sendable(self.param)
        return {"error": {"message": sendable(str(self)), "type": kind, "param": param, "code": self.code}}


def sendable(text: str) -> str:
    """The text as valid UTF-8: JSON escapes can spell half a character (a lone surrogate), which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def kind_of(value: Any) -> str:
    """What a value is, for a message."""
    return "null" if value is None else f"of type {type(value).__name__}"


def shown(value: Any, length: int = 60) -> str:
    """A value for a message, shortened."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
