"""Reasoning strategies, one file each: `components.reasoning.strategy.Strategy` says what such a file declares."""
