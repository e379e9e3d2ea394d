"""Where everything lies: artifacts, tables, SQL over them, and the MLflow mirror.

Storage owns *where*; it knows neither the science in `components` nor the orchestration in `flows`.
"""
