"""Figures as data: pure functions from rows to what plotly.js draws, tested without a browser."""
