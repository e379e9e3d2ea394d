"""A judge behind a server as a reward: asked over HTTP with its key, and its marks in the sum of rewards."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from components.rlhf.judge_server import JudgeFailed
from components.rlhf.rewards.answers import Sample
from components.rlhf.rewards.judge import JudgeReward
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.scoring import open_rewards
from flows.stages.judges import reward_judge


class Marks(http.server.BaseHTTPRequestHandler):
    """Marks an answer by its number of words, and has one model."""

    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self._say({"data": [{"id": "only"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Marks.keys.append(self.headers["Authorization"])
        text = asked["messages"][0]["content"].partition("Answer: ")[2]
        mark = "none" if text == "?" else f"Score: {len(text.split())}"
        self._say({"choices": [{"message": {"content": mark}, "finish_reason": "stop"}], "model": asked["model"]})

    def _say(self, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Marks)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    made.server_close()


def test_a_judge_is_asked_over_http_and_added_to_other_rewards(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFESPAN_JUDGE_KEY", "secret-key")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not taken to this machine itself
    Marks.keys.clear()
    judge = JudgeReward(server, question="Answer: {completion}", lowest=0, highest=4, weight=2.0)
    rewards = open_rewards([NumberReward(), judge], max_failed=0.5, judge=reward_judge)
    message = ({"role": "user", "content": "3+4=?"},)
    texts = ("it is 7", "8", "?")
    judged = rewards.judge([Sample(message, text, "7") for text in texts])
    assert [one.total for one in judged] == [1 + 2 * 3 / 4, 2 * 1 / 4, 0.0]
    assert judged[2].failures == {"judge": "the judge said 'none', which holds no number"}
    assert set(Marks.keys) == {"Bearer secret-key"}


def test_a_judge_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.reasoning.endpoints.client.back_off", lambda *_: 0.0)
    with pytest.raises(JudgeFailed, match="is the server running"):
        reward_judge(JudgeReward("http://127.0.0.1:9/v1"))
