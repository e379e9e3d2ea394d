"""How questions are put: wordings as data, each with a version and a hash, and examples that come before."""
