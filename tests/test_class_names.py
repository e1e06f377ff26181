"""Names of classes, with their synonyms."""

import numpy as np
import pytest

from ovseg_model.class_names import check_distinct, embed_classes, split_names, titles
from schemas import UserError

VECTORS = {"road": [1.0, 0.0], "route": [0.0, 1.0], "road, route": [0.6, 0.8], "cat": [0.8, 0.6]}


class Names:
    def embed(self, names):
        return np.array([VECTORS[name] for name in names], np.float32)


def test_a_class_is_one_text_or_several_names():
    names = ["road, route", " cat ", "a, a,, b"]
    assert split_names(names, "verbatim") == (("road, route",), ("cat",), ("a, a,, b",))
    assert split_names(names, "max") == split_names(names, "mean") == (("road", "route"), ("cat",), ("a", "b"))
    assert titles(split_names(names, "max")) == ["road", "cat", "a"]


def test_the_vectors_of_each_way():
    verbatim, most, mean = (
        embed_classes(Names(), split_names(["road, route", "cat"], way), way) for way in ("verbatim", "max", "mean")
    )
    assert verbatim.vectors_VD == pytest.approx(np.array([[0.6, 0.8], [0.8, 0.6]]))
    assert (most.starts, most.count, len(most.vectors_VD)) == ((0, 2), 2, 3)
    assert mean.vectors_VD[0] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert mean.vectors_VD[1] == pytest.approx([0.8, 0.6])
    assert mean.starts == (0, 1)


def test_what_is_refused():
    with pytest.raises(UserError, match=r"class 2 of them is empty \(' , '\)"):
        split_names(["cat", " , "], "max")
    with pytest.raises(UserError, match="--synonyms: wanted one of verbatim, max, mean, got 'best'"):
        split_names(["cat"], "best")
    with pytest.raises(UserError, match="'cat' names two classes"):
        check_distinct((("cat", "kitten"), ("dog", "cat")))
