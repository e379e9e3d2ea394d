"""A judge behind a server that speaks OpenAI's chat completions: ours, or somebody else's."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt

AT_ONCE = 16  # requests in flight: a server batches what it has at the same time
ATTEMPTS = 4


class JudgeFailed(ValueError):
    """The server is not there, refuses the key, or does not answer as an OpenAI-compatible one does."""


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class JudgeServer:
    """`url` ends before `/chat/completions` ("http://127.0.0.1:8000/v1"); `key` goes out as a bearer token. Called with
    prompts it is a `components.inference.text.Generate`; a prompt that the server refuses (too long, say) gets an empty
    answer, and `print` says why. `use_proxy`: go through the proxy that the environment names, if any."""

    url: str
    model: str
    key: str = ""
    timeout: float = 300.0
    pause: float = 1.0
    use_proxy: bool = True

    def models(self) -> list[str]:
        """Names of the models that the server has. Raises JudgeFailed."""
        listed = self._ask("/models", None)
        try:
            return [str(entry["id"]) for entry in listed["data"]]
        except (KeyError, TypeError) as error:
            raise JudgeFailed(f"{self.url}/models gives no list of models: {str(listed)[:200]}") from error

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [[done] for done in pool.map(lambda prompt: self._answer(prompt, params), prompts)]

    def _answer(self, prompt: TextPrompt, params: SamplingParams) -> TextCompletion:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt.user}],
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        try:
            said = self._ask("/chat/completions", body)
        except _Refused as refused:
            print(f"the judge refused a question: {refused}")
            return TextCompletion("", 0, 0.0, False)
        try:
            choice, usage = said["choices"][0], said.get("usage") or {}
            text = str(choice["message"]["content"] or "")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise JudgeFailed(f"{self.url}: an answer without choices[0].message: {str(said)[:200]}") from error
        used = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
        return TextCompletion(text, used[0], 0.0, choice.get("finish_reason") == "stop", prompt_tokens=used[1])

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """The JSON of an answer; tried again where the server is overloaded or gone for a moment."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.url + path, json.dumps(body).encode() if body else None, headers)
        handlers: list[Any] = [_StayHere()]
        if not self.use_proxy:
            handlers.append(urllib.request.ProxyHandler({}))
        opener, reason = urllib.request.build_opener(*handlers), ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with opener.open(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {_message(error.read())}"
                if error.code in (401, 403):
                    raise JudgeFailed(f"{self.url} refuses the key (LIFESPAN_JUDGE_KEY): {reason}") from None
                if error.code in (400, 413, 422):
                    raise _Refused(reason) from None
                if error.code < 500 and error.code not in (408, 409, 425, 429):
                    raise JudgeFailed(f"{self.url}{path}: {reason}") from None
            except json.JSONDecodeError:
                raise JudgeFailed(f"{self.url}{path} answers with something that is no JSON") from None
            except OSError as error:  # urllib.error.URLError is one, and so is a timeout
                reason = str(getattr(error, "reason", error))
        raise JudgeFailed(f"{self.url}{path}: no answer in {ATTEMPTS} attempts ({reason}): is the server running?")


class _Refused(Exception):
    """The server takes no such question; others it may take."""


def _message(body: bytes) -> str:
    """What an error says, in OpenAI's shape or as it is."""
    text = body.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])[:300]
    except (json.JSONDecodeError, KeyError, TypeError):
        return text[:300]
