"""One module a page: its function makes the page's view from the home and the address."""
