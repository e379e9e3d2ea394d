"""The science of Lifespan: data, models, training, inference, laws and costs, in plain torch, numpy and Arrow.

Nothing here knows an orchestrator, a tracker or a path of its own: a component is handed streams and folders.
"""
