"""Where completions come from: a model of ours or any OpenAI-compatible endpoint, with every sample kept.

A backend (`backend.py`) yields samples as they arrive; `client.py` speaks to an endpoint, `local.py` to a model in this
process. `store.py` keeps each sample on disk, and `recorded.py` joins the two to the seam of strategies, `Generate`, so
that nothing is asked twice.
"""
