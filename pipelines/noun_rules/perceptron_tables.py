"""NLTK's averaged perceptron as tables of integers, read at one place of many sentences at once; the tags are NLTK's.

NLTK's weights have three decimals, so that in thousandths they are integers, which add exactly in any order. Where one
tag has the highest sum alone, the next is at least 0.001 below, and the rounding of NLTK's floats, about 1e-13, does
not reach that far. Where two tags share the highest sum, that rounding decides: there NLTK's own `predict` is asked.

Array names end in their axes: W words of the tables, T tokens of a batch, N of them whose tag is not known beforehand,
O places of a word relative to the token, F features, P previous tags, C tags to choose from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from nltk.tag import PerceptronTagger

MOST_WORDS = 32_768
"""Words whose rows are kept between batches, 1.1 kB each; beyond, all are forgotten and looked up again when met."""

TOKENS_PER_BATCH = 16_384
"""Tokens tagged at once, or one sentence: their scores are 3 MB, which a CPU's cache holds."""

_PLACES_O = (0, -1, -2, 1, 2)
"""Where a word stands relative to the token that is tagged; a word has one row of scores for each."""

_FIRST_FEATURE_O = (0, 4, 6, 7, 9)
"""Where the features of each place begin in what `_word_features` returns."""


def _word_features(word: str, normal: str) -> tuple[str, ...]:
    """NLTK's names of the features that a word gives to the tokens around it: those of each place, in order."""
    return (
        *("bias", f"i suffix {word[-3:]}", f"i pref1 {word[:1]}", f"i word {normal}"),
        *(f"i-1 word {normal}", f"i-1 suffix {normal[-3:]}"),
        f"i-2 word {normal}",
        *(f"i+1 word {normal}", f"i+1 suffix {normal[-3:]}"),
        f"i+2 word {normal}",
    )


def _tag_features(previous: str, before: str) -> tuple[str, ...]:
    """The features of the two tags before a token, the nearer first."""
    return f"i-1 tag {previous}", f"i-2 tag {before}", f"i tag+i-2 tag {previous} {before}"


def _pair_feature(previous: str, normal: str) -> str:
    """The feature of the previous tag together with the token."""
    return f"i-1 tag+i word {previous} {normal}"


class _Numbers(dict):
    """Words to numbers, counted from 0; a word that is asked for gets the next."""

    def __missing__(self, word: object) -> int:
        return self.setdefault(word, len(self))


class PerceptronTables:
    """`PerceptronTagger.tag` over many sentences at once. Threads may share it."""

    def __init__(self, tagger: PerceptronTagger) -> None:
        """Reads the tagger's weights. Raises ValueError for weights or features that the tables cannot hold."""
        self._tagger = tagger
        self._lock = threading.Lock()
        self._tags = sorted(tagger.classes)
        self._previous_tags = [*self._tags, *tagger.START]
        self._number_of_tag = {tag: number for number, tag in enumerate(self._previous_tags)}
        self._row_of_feature = {feature: row for row, feature in enumerate(tagger.model.weights, 1)}
        self._weights_FC = self._integer_weights()
        self._require_known_features()
        self._contexts_PPC = self._weights_FC[self._rows_of_contexts()].sum(axis=2, dtype=np.int32)
        self._names_C = np.array(self._tags, object)
        self._forget_words()

    def _integer_weights(self) -> np.ndarray:
        """All weights in thousandths, int32, row 0 for features that the model does not know."""
        weights = self._tagger.model.weights
        thousandths = 1000 * np.array([weight for of_tag in weights.values() for weight in of_tag.values()])
        if np.abs(thousandths - thousandths.round()).max(initial=0) > 1e-6:
            raise ValueError("perceptron tables: wanted weights of three decimals, as NLTK trains them")
        rows = np.repeat(np.arange(1, len(weights) + 1), [len(of_tag) for of_tag in weights.values()])
        columns = [self._number_of_tag[tag] for of_tag in weights.values() for tag in of_tag]
        weights_FC = np.zeros((len(weights) + 1, len(self._tags)), np.int32)
        weights_FC[rows, columns] = thousandths.round()
        return weights_FC

    def _require_known_features(self) -> None:
        """Asks NLTK which features a token has, so that a release that reads others is found out."""
        words, around = ["-v", "-w", "Xyz", "w-", "v-"], (self._tagger.START, self._tagger.END)
        context = [*around[0], *map(self._tagger.normalize, words), *around[1]]
        wanted = dict(self._tagger._get_features(2, words[2], context, "P", "Q"))
        spans = [slice(*ends) for ends in zip(_FIRST_FEATURE_O, (*_FIRST_FEATURE_O[1:], None), strict=True)]
        ours = [*_tag_features("P", "Q"), _pair_feature("P", self._tagger.normalize(words[2]))]
        for place, span in zip(_PLACES_O, spans, strict=True):
            ours += _word_features(words[2 + place], self._tagger.normalize(words[2 + place]))[span]
        if wanted != dict.fromkeys(ours, 1):
            raise ValueError(f"perceptron tables: this NLTK reads other features: {sorted(wanted)}")

    def _rows_of_contexts(self) -> list[list[list[int]]]:
        tags = self._previous_tags
        return [[self._rows(_tag_features(previous, before)) for before in tags] for previous in tags]

    def _rows(self, features: Sequence[str]) -> list[int]:
        return [self._row_of_feature.get(feature, 0) for feature in features]

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The tags of every sentence's words, in the sentences' order; equal to NLTK's."""
        tagged: list[list[str]] = [[] for _ in sentences]
        with self._lock:
            for batch in _batches(sentences):
                for index, tags in zip(batch, self._tag_batch([sentences[index] for index in batch]), strict=True):
                    tagged[index] = tags
        return tagged

    def _tag_batch(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[str]]:
        """The tags of sentences that become no longer, so that those with a token at a step are the first ones."""
        lengths = np.array([len(sentence) for sentence in sentences])
        words_T = self._numbers_of(list(chain.from_iterable(sentences)))
        first = lengths.cumsum() - lengths
        sentence_T = np.repeat(np.arange(len(lengths)), lengths)
        step_T = np.arange(len(words_T)) - first[sentence_T]
        by_step_T = step_T.argsort(kind="stable")
        # Two words stand before and two behind each sentence, as in NLTK's context.
        place_T = np.arange(len(words_T)) + 4 * sentence_T + 2
        context = np.empty(len(words_T) + 4 * len(lengths), np.intp)
        context[place_T] = words_T
        context[(first + 4 * np.arange(len(lengths)))[:, None] + np.array([0, 1])] = [0, 1]
        context[(first + lengths + 4 * np.arange(len(lengths)))[:, None] + np.array([2, 3])] = [2, 3]
        tags_T = np.empty(len(words_T), np.intp)
        tags_T[by_step_T] = self._decide(sentences, np.bincount(step_T), context, place_T[by_step_T])
        names = self._names_C[tags_T].tolist()
        return (names[start : start + length] for start, length in zip(first.tolist(), lengths.tolist(), strict=True))

    def _decide(
        self, sentences: Sequence[Sequence[str]], active: np.ndarray, context: np.ndarray, place_T: np.ndarray
    ) -> np.ndarray:
        """Numbers of the tags, all first tokens, then all second ones; `active` counts the tokens of each step."""
        words_T = context.take(place_T)
        tags_T = self._known_W.take(words_T)
        open_N = np.flatnonzero(tags_T < 0)
        scores_NC = self._scores(context, place_T.take(open_N))
        first_pair_N = words_T.take(open_N) * self._pairs_WP.shape[1]
        ends, starts = active.cumsum(), active.cumsum() - active
        row_N = open_N - np.repeat(starts, active).take(open_N)
        cuts = [0, *np.searchsorted(open_N, ends).tolist()]
        previous, before = (np.full(len(sentences), self._number_of_tag[tag]) for tag in self._tagger.START)
        for step, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            tags, these = tags_T[start:end], slice(cuts[step], cuts[step + 1])
            rows, scores = row_N[these], scores_NC[these]
            previous_N = previous.take(rows)
            scores += self._contexts_PPC[previous_N, before.take(rows)]
            scores += self._weights_FC.take(self._pairs_WP.take(first_pair_N[these] + previous_N), axis=0)
            tags[rows], tied = _best(scores)
            for row in rows[tied].tolist():
                tags[row] = self._ask(sentences[row], step, previous[row], before[row])
            previous, before = tags, previous
        return tags_T

    def _scores(self, context: np.ndarray, place_N: np.ndarray) -> np.ndarray:
        """What the words say, int32 (N, C): the sum over the five places."""
        scores_NC = self._rows_WOC[context[place_N], 0]
        for column, place in enumerate(_PLACES_O[1:], 1):
            scores_NC += self._rows_WOC[context[place_N + place], column]
        return scores_NC

    def _ask(self, sentence: Sequence[str], step: int, previous: int, before: int) -> int:
        """NLTK's own choice for one token."""
        tagger = self._tagger
        context = [*tagger.START, *map(tagger.normalize, sentence), *tagger.END]
        tags = self._previous_tags[previous], self._previous_tags[before]
        return self._number_of_tag[tagger.model.predict(tagger._get_features(step, sentence[step], context, *tags))[0]]

    def _numbers_of(self, words: Sequence[str]) -> np.ndarray:
        """Words as rows of the tables, which get a row for every new one."""
        if len(self._numbers) > MOST_WORDS:
            self._forget_words()
        words_T = np.fromiter(map(self._numbers.__getitem__, words), np.intp, len(words))
        self._add_rows([(word, self._tagger.normalize(word)) for word in islice(self._numbers, self._filled, None)])
        return words_T

    def _forget_words(self) -> None:
        """Leaves the words around sentences only; they are tuples, since a caption may hold them as words."""
        self._numbers, self._filled = _Numbers(), 0
        self._rows_WOC = np.empty((0, len(_PLACES_O), len(self._tags)), np.int32)
        self._pairs_WP = np.empty((0, len(self._previous_tags)), np.int32)
        self._known_W = np.empty(0, np.intp)
        around = [*self._tagger.START, *self._tagger.END]
        for word in around:
            self._numbers[(word,)]
        self._add_rows([(word, word) for word in around])

    def _add_rows(self, words: Sequence[tuple[str, str]]) -> None:
        """Appends rows of words, each with its normal form."""
        if not words:
            return
        start, self._filled = self._filled, self._filled + len(words)
        if self._filled > len(self._known_W):
            tables = (self._rows_WOC, self._pairs_WP, self._known_W)
            self._rows_WOC, self._pairs_WP, self._known_W = (_grown(table, 2 * self._filled) for table in tables)
        new = slice(start, self._filled)
        features = [self._rows(_word_features(*word)) for word in words]
        self._rows_WOC[new] = np.add.reduceat(self._weights_FC[features], _FIRST_FEATURE_O, axis=1)
        pairs = [self._rows([_pair_feature(tag, normal) for tag in self._previous_tags]) for _, normal in words]
        self._pairs_WP[new] = pairs
        known = (self._tagger.tagdict.get(word) for word, _ in words)
        self._known_W[new] = [self._number_of_tag[tag] if tag else -1 for tag in known]


def _grown(table: np.ndarray, rows: int) -> np.ndarray:
    """The table with rows to be filled behind its own."""
    return np.concatenate([table, np.empty((rows - len(table), *table.shape[1:]), table.dtype)])


def _batches(sentences: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Indices of sentences, longest first, in runs of about TOKENS_PER_BATCH tokens."""
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]), reverse=True)
    batch, tokens = list[int](), 0
    for index in order:
        if batch and tokens + len(sentences[index]) > TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
        if sentences[index]:
            batch.append(index)
            tokens += len(sentences[index])
    if batch:
        yield batch


def _best(scores_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The column of each row's highest score, and the rows that have it twice or more."""
    best_N = scores_NC.argmax(axis=1)
    is_best_NC = scores_NC == scores_NC.max(axis=1, keepdims=True)
    if np.count_nonzero(is_best_NC) == len(best_N):
        return best_N, np.empty(0, np.intp)
    return best_N, np.flatnonzero(is_best_NC.sum(axis=1) > 1)
