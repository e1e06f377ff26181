"""Readers of caption tables, one file a format; `pipelines.read_captions` chooses among them."""
