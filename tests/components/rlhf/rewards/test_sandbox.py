"""Programs of a model pass their tests or not, and harm nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.rlhf.rewards import sandbox
from components.rlhf.rewards.answers import RewardError, Sample
from components.rlhf.rewards.sandbox import run_program
from components.rlhf.rewards.unit_tests import UnitTestsReward

TESTS = "assert double(3) == 6"
RIGHT = "def double(x):\n    return 2 * x"


@pytest.fixture(scope="module")
def namespaces() -> bool:
    return not run_program("", "", 5, 256).open_world


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("def double(x):\n    return x", "AssertionError"),
        ("def double(x):", "IndentationError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended before its tests were through"),
        ("x = ' ' * 10**10", "MemoryError"),
        ("import numpy", "ModuleNotFoundError"),
        ("def double(x):\n    return double(x)", "RecursionError"),
    ],
)
def test_what_does_not_pass_says_why(program: str, error: str) -> None:
    ran = run_program(program, TESTS, 5, 256)
    assert not ran.passed
    assert error in ran.error


def test_a_right_program_passes_and_knows_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFESPAN_JUDGE_KEY", "secret")
    assert run_program(RIGHT, TESTS, 5, 256).passed
    assert run_program("import os", "assert 'LIFESPAN_JUDGE_KEY' not in os.environ", 5, 256).passed


@pytest.mark.parametrize(
    "program", ["while True: pass", "import time; time.sleep(60)", "import os\nwhile True: os.fork()"]
)
def test_time_is_limited(program: str) -> None:
    began = time.monotonic()
    ran = run_program(program, TESTS, 0.5, 256)
    assert not ran.passed
    assert "took longer than 0.5 s" in ran.error
    assert time.monotonic() - began < 5


def test_with_namespaces_there_is_no_network_and_nothing_is_written(namespaces: bool, tmp_path: Path) -> None:
    if not namespaces:
        pytest.skip("this kernel refuses user namespaces")
    target = tmp_path / "written"
    program = f"import socket\nopen('mine', 'w').write('x')\ntry: open({str(target)!r}, 'w')\nexcept OSError: pass"
    tests = "try: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError as e: assert e.errno == 101, e"
    ran = run_program(program, tests, 5, 256)
    assert ran.passed, ran.error
    assert not target.exists()


def test_required_isolation_refuses_where_it_is_not_to_be_had() -> None:
    said = b'{"open": "namespaces: Operation not permitted"}'
    with pytest.raises(RewardError, match="isolation is required, and this machine refuses namespaces: Operation"):
        sandbox._read(said, "token", False, 1.0, 1, True)


def test_the_program_of_an_answer_is_its_last_block_and_the_tests_are_a_column() -> None:
    reward = UnitTestsReward(seconds=5)
    message = ({"role": "user", "content": "Write double."},)
    text = f"First:\n```python\nbroken(\n```\nBetter:\n```python\n{RIGHT}\n```\n"
    asked = [Sample(message, text, metadata={"tests": [TESTS, "assert double(0) == 0"]}), Sample(message, "", "")]
    right, empty = reward.scores(asked)
    assert (right.value, right.found) == (1.0, "passed")
    assert (empty.value, empty.status) == (0.0, "unparsed")
    assert reward.refusal("", {}) == "no tests in 'tests'"
    assert UnitTestsReward(tests="answer").refusal(TESTS, {}) == ""
