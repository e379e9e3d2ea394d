"""The stages of a life, by part; each is a plain function that calls components and reports to its `Work`."""
