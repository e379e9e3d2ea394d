"""From raw text to batches: sources, filters, de-duplication, decontamination, tokenizer, shards, mixtures."""
