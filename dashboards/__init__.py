"""Pages for people: they read a run through `storage` and never look inside a flow."""
