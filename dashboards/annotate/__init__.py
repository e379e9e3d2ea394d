"""The page on which people rank answers: a small server (`server.py`) and the page itself (`page.*`)."""
