"""Functions, commands and judges of the user's, and how rewards are added up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.rlhf.rewards.answers import RewardError, Sample
from components.rlhf.rewards.command import CommandReward, open_command
from components.rlhf.rewards.judge import JudgeReward, open_judge
from components.rlhf.rewards.kinds import check_names, from_settings
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.python_function import PythonReward, open_function
from components.rlhf.rewards.reward_model import ModelReward
from components.rlhf.rewards.scoring import means, open_rewards


def sample(text: str, answer: str = "7", **metadata: object) -> Sample:
    return Sample(({"role": "user", "content": "3+4=?"},), text, answer, metadata)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "my_rewards.py"
    (tmp_path / "my_words.py").write_text("WORDS = ('please',)\n")
    file.write_text(
        "from my_words import WORDS\n"
        "def score(completion, answer, level=1):\n"
        "    if completion == 'boom':\n"
        "        raise KeyError('no such word')\n"
        "    if completion == 'nan':\n"
        "        return float('nan')\n"
        "    return level * (answer in completion) + 0.5 * any(word in completion for word in WORDS)\n"
        "def everything(**columns):\n"
        "    return len(columns)\n"
        "def greedy(price):\n"
        "    return price\n"
        "def unsure(completion):\n"
        "    return None\n"
    )
    return file


def test_a_function_gets_what_it_names_and_one_failure_stays_one(mine: Path) -> None:
    score = open_function(PythonReward(f"{mine}:score"), ["level"])
    found = score([sample("7 please", level=2), sample("8"), sample("boom"), sample("nan")])
    assert [one.value for one in found] == [2.5, 0.0, 0.0, 0.0]
    assert [one.status for one in found] == ["answered", "answered", "failed", "failed"]
    assert found[2].note == "KeyError: 'no such word' (my_rewards.py:4)"
    assert found[3].note == "returned nan, which is not finite"
    assert open_function(PythonReward(f"{mine}:everything"), ["level"])([sample("", level=1)])[0].value == 7
    assert (
        open_function(PythonReward(f"{mine}:unsure"), [])([sample("")])[0].note == "returned None, which is no number"
    )


def test_what_it_imports_from_beside_it_is_read_anew(mine: Path) -> None:
    assert open_function(PythonReward(f"{mine}:score"), [])([sample("thanks")])[0].value == 0
    (mine.parent / "my_words.py").write_text("WORDS = ('thanks', 'please')\n")
    assert open_function(PythonReward(f"{mine}:score"), [])([sample("thanks")])[0].value == 0.5


def test_a_function_that_is_not_there_or_wants_what_no_prompt_has_is_told_at_once(mine: Path) -> None:
    with pytest.raises(RewardError, match=r"has no function 'scores'; it has score, everything"):
        open_function(PythonReward(f"{mine}:scores"), [])
    with pytest.raises(RewardError, match=r"takes 'price', which no prompt has; there are prompt, .*, level$"):
        open_function(PythonReward(f"{mine}:greedy"), ["level"])
    with pytest.raises(RewardError, match=r"no file nowhere\.py"):
        open_function(PythonReward("nowhere.py:score"), [])
    broken = mine.parent / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    with pytest.raises(RewardError, match=r"cannot be imported: ModuleNotFoundError: .* \(broken.py:1\)"):
        open_function(PythonReward(f"{broken}:score"), [])
    with pytest.raises(ValueError, match="give a file and a function"):
        PythonReward("my_rewards.score")


def test_a_command_reads_and_writes_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "score.py"
    file.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    right = asked['answer'] in asked['completion']\n"
        "    print(json.dumps({'score': None, 'error': 'odd'} if asked['completion'] == '?' else right))\n"
    )
    config = CommandReward(f"{sys.executable} {file}")
    found = open_command(config)([sample("7"), sample("8"), sample("?")])
    assert [(one.value, one.status, one.note) for one in found] == [
        (1.0, "answered", ""),
        (0.0, "answered", ""),
        (0.0, "failed", "odd"),
    ]
    assert str(file) in config.files
    file.write_text("import sys; print('no', file=sys.stderr); sys.exit(3)")
    assert open_command(config)([sample("7")])[0].note == ("the command gave 0 lines for 1 answers, exit status 3: no")
    file.write_text("import time; time.sleep(60)")
    slow = open_command(CommandReward(config.command, seconds=0.3))([sample("7"), sample("8")])
    assert {one.note for one in slow} == {"the command took longer than 0.3 s"}
    with pytest.raises(RewardError, match="there is no program 'no-such-program'"):
        open_command(CommandReward("no-such-program --fast"))


def test_a_judge_marks_in_its_range_and_sees_each_text_once() -> None:
    asked: list[str] = []

    def ask(questions: list[str], max_tokens: int) -> list[str]:
        asked.extend(questions)
        return ["10", "Score: 1", "11", "lovely"]

    config = JudgeReward("http://127.0.0.1:1/v1", question="{prompt} | {completion} | {answer}")
    found = open_judge(config, ask)([sample("{prompt}"), sample("b"), sample("c"), sample("d")])  # type: ignore[arg-type]
    assert asked[0] == "3+4=? | {prompt} | 7"
    assert [one.value for one in found] == [1.0, 0.0, 0.0, 0.0]
    assert [one.status for one in found] == ["answered", "answered", "failed", "failed"]
    with pytest.raises(ValueError, match=r"question has no \{completion\}"):
        JudgeReward("http://x", question="Good?")


def test_a_sum_keeps_its_parts_and_counts_a_failed_part_as_nothing(mine: Path) -> None:
    rewards = open_rewards([NumberReward(weight=2.0), PythonReward(f"{mine}:score", weight=-1.0)], max_failed=0.5)
    right, failed = rewards.judge([sample("7 please"), sample("boom")])
    assert right.total == 2.0 * 1.0 - 1.5
    assert {name: score.value for name, score in right.parts.items()} == {"number": 1.0, "score": 1.5}
    assert failed.total == 0.0
    assert failed.failures == {"score": "KeyError: 'no such word' (my_rewards.py:4)"}
    told = dict(means([right, failed]).metrics())
    assert told == {
        "reward/number": 0.5,
        "reward/score": 0.75,
        "reward/failed": 0.5,
        "reward/refused": 0.0,
        "reward/truncated": 0.0,
        "reward/unparsed": 0.0,
    }


def test_one_failure_never_ends_a_run_and_too_many_do(mine: Path) -> None:
    rewards = open_rewards([PythonReward(f"{mine}:score")], max_failed=0.25)
    rewards.judge([sample("boom")])
    with pytest.raises(
        RewardError, match=r"2 of 3 scores failed, more than .* = 0.25 allows; the last: score: KeyError"
    ):
        rewards.judge([sample("7"), sample("boom")])
    resumed = open_rewards([PythonReward(f"{mine}:score")], max_failed=0.25)
    resumed.counted({"scored": 100, "failed": 20})
    assert len(resumed.judge([sample("boom")])) == 1


def test_a_profile_may_write_a_reward_in_short() -> None:
    assert from_settings("number") == {"kind": "number"}
    assert from_settings("my_rewards.py:score") == {"kind": "python", "function": "my_rewards.py:score"}
    with pytest.raises(ValueError, match=r"no kind 'numbr' \(did you mean 'number'"):
        from_settings("numbr")
    with pytest.raises(ValueError, match="there is no kind; it takes exact, number"):
        from_settings({"weight": 1})
    with pytest.raises(ValueError, match="two are called 'number'"):
        check_names([NumberReward(), NumberReward()], "rewards")
    with pytest.raises(RewardError, match="this life trains no reward model"):
        open_rewards([ModelReward()])
