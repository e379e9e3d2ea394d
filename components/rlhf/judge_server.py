"""A judge behind a server that speaks OpenAI's chat completions: ours, or somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.endpoints.backend import Ask, EndpointError
from components.reasoning.endpoints.client import Endpoint, EndpointSettings

AT_ONCE = 16  # requests in flight: a server batches what it has at the same time
ATTEMPTS = 4
KEY_VARIABLE = "LIFESPAN_JUDGE_KEY"


class JudgeFailed(ValueError):
    """The server is not there, refuses the key, or does not answer as an OpenAI-compatible one does."""


@dataclass(frozen=True)
class JudgeServer:
    """`url` ends before `/chat/completions` ("http://127.0.0.1:8000/v1"); `key` goes out as a bearer token. Called with
    prompts it is a `components.inference.text.Generate`; a prompt that the server refuses (too long, say) gets an empty
    answer, and `print` says why. One that fails in the end ends all: verdicts would be missing where nobody looks."""

    url: str
    model: str
    key: str = ""
    timeout: float = 300.0
    pause: float = 1.0

    def models(self) -> list[str]:
        """Names of the models that the server has. Raises JudgeFailed."""
        with self._endpoint() as endpoint:
            try:
                return endpoint.models()
            except EndpointError as error:
                raise JudgeFailed(str(error)) from None

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        groups: list[list[TextCompletion]] = [[] for _ in prompts]
        with self._endpoint() as endpoint:
            try:
                arrived = [one for batch in endpoint.complete([Ask(p, params) for p in prompts]) for one in batch]
            except EndpointError as error:
                raise JudgeFailed(str(error)) from None
        for one in sorted(arrived, key=lambda one: (one.ask, one.sample)):
            if one.completion.problem == "failed":
                print(f"the judge refused a question: {one.completion.note}")
            groups[one.ask].append(one.completion)
        return groups

    def _endpoint(self) -> Endpoint:
        settings = EndpointSettings(
            self.url,
            self.model,
            key_variable=KEY_VARIABLE,
            at_once=AT_ONCE,
            timeout=self.timeout,
            attempts=ATTEMPTS,
            first_pause=self.pause,
            in_a_row=1,
        )
        return Endpoint(settings, key=self.key)
