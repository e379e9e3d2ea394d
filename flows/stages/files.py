"""Names of the files by which stages hand their work on; only the stages that write and read a file know its name."""

from __future__ import annotations

CORPUS = "documents.parquet"
CONVERSATIONS = "conversations.parquet"
ANSWERS = "answers.jsonl"
PREFERENCES = "preferences.parquet"
PROMPTS = "prompts.parquet"
EVALUATIONS = "evaluations.parquet"
GOLD_SCALE = "gold_scale.json"
VERDICTS = "verdicts.jsonl"  # what a judging model was asked and what it said
POINTS = "points.json"  # of the scaling law, one a checkpoint
HELD_OUT_LOSSES = "held_out_losses.safetensors"
