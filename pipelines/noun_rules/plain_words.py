"""Captions that NLTK's `word_tokenize` cuts at spaces and around a few marks only, cut without it.

Nearly all captions are plain, and NLTK's two dozen substitutions find nothing in them. A guard admits what they
provably cut as `plain_words` does, and nothing else:

- ASCII letters, digits, spaces, hyphens and slashes, which no rule is about but for "--" and the contractions that are
  cut within (cannot, gonna): those are refused, even as parts of longer words.
- One ".", "?" or "!" at the end. Punkt looks for sentences behind such marks, so the caption is one sentence; and
  there each of them becomes a token.
- A comma or colon before a letter or a space: one before a digit may be a part of a number. It becomes a token, as do
  ; # $ % & and @ everywhere.
- An apostrophe in one of NLTK's clitics, behind a letter or digit and at the end of a word, which is cut before it.

No quotes, brackets, control characters or white space but spaces (and any at the very end), and nothing beyond ASCII:
some rules fold case, which has exceptions of its own there.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"[A-Za-z0-9 /\-]+[.?!]?\s*")
"""The guard of captions without marks inside, which most are, and which is quicker to try."""

_MARK = r"[;#$%&@]|[,:](?=[A-Za-z ])"
_CLITIC = r"(?<=[A-Za-z0-9])(?:'[sSmMdD]|'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?![^ ,.?!])"
_WORDS_AND_MARKS = re.compile(rf"(?:[A-Za-z0-9 /\-]|{_MARK}|{_CLITIC})+[.?!]?\s*")
_TO_CUT = re.compile(f"{_MARK}|{_CLITIC}")
_CUT_WITHIN = re.compile("--|cannot|gimme|gonna|gotta|lemme|wanna")


def plain_words(caption: str) -> list[str] | None:
    """What NLTK's `word_tokenize(caption)` returns, or None where NLTK has to be asked."""
    spaced = caption
    if not _WORDS.fullmatch(caption):
        if not _WORDS_AND_MARKS.fullmatch(caption):
            return None
        spaced = _TO_CUT.sub(r" \g<0> ", caption)
    if _CUT_WITHIN.search(caption.lower()):
        return None
    words = spaced.split()
    if words and len(words[-1]) > 1 and words[-1][-1] in ".?!":
        words[-1:] = words[-1][:-1], words[-1][-1]
    return words
