"""Side-by-side measurements; each checks its results before it prints a time."""
