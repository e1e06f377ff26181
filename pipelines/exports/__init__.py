"""The formats that `ovseg export` writes PAIRS in, one a module, and what they share."""
