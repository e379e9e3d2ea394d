"""Scaling laws: points, fits with intervals, optima, forecasts, emergence, and a corpus whose entropy is known."""
