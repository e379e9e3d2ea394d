"""The dashboard of a home: pages over its tables, in the browser."""
