"""Two models, one prompt: their answers as they are written, and a vote that a reward model can learn from."""

from __future__ import annotations

from dashboards.app.address import Address
from dashboards.app.outside import Outside
from dashboards.app.view import Tool, View, missing
from storage.home import Home


def chat_page(home: Home, address: Address, outside: Outside) -> View:
    """The form, filled in from the address."""
    if outside.models is None:
        return missing("Chat", "This server opens no models: start it with `lifespan ui`.", ("Runs", "/"))
    models = list(outside.models())
    if not models:
        return missing("Chat", f"No run of {home.shown} has made a model yet: `lifespan run`.", ("Runs", "/"))
    a = address.text("a", "finetune" if "finetune" in models else models[0], models)
    b = address.text("b", "grpo" if "grpo" in models else models[-1], models)
    data = {
        "models": models,
        "a": a,
        "b": b,
        "prompt": address.text("prompt"),
        "temperature": address.number("temperature", 0.7, 0.0, 2.0),
        "max_tokens": round(address.number("max_tokens", 120, 1, 4096)),
        "blind": address.flag("blind"),
        "votes": outside.prefer is not None,
    }
    return View("Chat", (Tool("chat", data),), address=address.used)
