"""One file per filter of found text: its settings, and the function that says why a document is rejected."""
