"""What a life shows, part by part: pure functions from a run's rows to frozen dataclasses."""
