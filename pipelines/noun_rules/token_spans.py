"""Where NLTK's tokens stand in the caption they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# The tokenizer adds spaces and rewrites straight double quotes, nothing else.
_WRITTEN_AS = {"``": ("``", '"', "''"), "''": ("''", '"')}


def token_spans(caption: str, tokens: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The character span (start, end exclusive) of each token of NLTK's `word_tokenize(caption)`, in order.

    A token that stands for a rewritten quote gets the quote's span: `caption[start:end]` is what was written.
    """
    end = 0
    for token in tokens:
        if token in _WRITTEN_AS:
            start = _skip_space(caption, end)
            end = start + len(_as_written(caption, start, token))
        else:
            start = _next_place(caption, end, token)
            end = start + len(token)
        yield start, end


def _next_place(caption: str, end: int, token: str) -> int:
    """Where the token stands behind `end`: there is nothing but white space between."""
    start = caption.find(token, end)
    if start != end and (start < 0 or not caption[end:start].isspace()):
        raise _not_there(token, _skip_space(caption, end), caption)
    return start


def _skip_space(caption: str, position: int) -> int:
    while position < len(caption) and caption[position].isspace():
        position += 1
    return position


def _as_written(caption: str, start: int, token: str) -> str:
    for written in _WRITTEN_AS[token]:
        if caption.startswith(written, start):
            return written
    raise _not_there(token, start, caption)


def _not_there(token: str, start: int, caption: str) -> ValueError:
    return ValueError(f"token {token!r} does not stand at character {start} of caption {caption!r}")
