"""Data sets with labels: one file each; `scenes` is the world that ships with the project."""
