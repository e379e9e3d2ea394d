"""Orchestration: stages, the graph of a life, the worker pool, the command line.

The only package that imports prefect.
"""
