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
        start = caption.find(token, end)
        # Most tokens stand where the last one ended, or one space behind.
        if token in _WRITTEN_AS or (start != end and (start < 0 or not caption[end:start].isspace())):
            start = _skip_space(caption, end)
            end = start + len(_as_written(caption, start, token))
        else:
            end = start + len(token)
        yield start, end


def _skip_space(caption: str, position: int) -> int:
    while position < len(caption) and caption[position].isspace():
        position += 1
    return position


def _as_written(caption: str, start: int, token: str) -> str:
    for written in _WRITTEN_AS.get(token, (token,)):
        if caption.startswith(written, start):
            return written
    raise ValueError(f"token {token!r} does not stand at character {start} of caption {caption!r}")
