"""Questions with known answers, from files as others publish them.

`formats.py` says what a record of each format asks, what its right answer is, and which items belong together;
`reading.py` streams the items of a file, folder, pattern or hub data set; `generated.py` makes them with reasoning-gym.
"""
