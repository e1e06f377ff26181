"""Pickles of plain values: those of Python 2 load, those that ask for more run nothing."""

import codecs
import os
import pickle

import numpy as np
import pytest

from ovseg_model.datasets.safe_pickle import load_restricted
from schemas.errors import UserError


def saved(tmp_path, data: bytes):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(tmp_path, protocol):
    value = [{"ref_id": 7, "box": (1.5, None), "tokens": ["the", "café"], "crowd": False, "big": 2**70}]
    assert load_restricted(saved(tmp_path, pickle.dumps(value, protocol))) == value


def test_sets_and_bytes_come_back(tmp_path):
    value = {"names": {"a", "b"}, "bytes": b"\x00\xff"}
    assert load_restricted(saved(tmp_path, pickle.dumps(value, 4))) == value
    # Python 2's set, which it calls __builtin__.set.
    assert load_restricted(saved(tmp_path, pickle.dumps({7}, 2))) == {7}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_where_they_are_allowed(tmp_path, protocol):
    value = [np.array([[1, 258]], np.uint16), np.array(["sky", None], object), np.float32(0.5)]
    path = saved(tmp_path, pickle.dumps(value, protocol))
    numbers, objects, scalar = load_restricted(path, allow_numpy=True)
    assert (numbers.dtype, numbers.tolist()) == (np.uint16, [[1, 258]])
    assert objects.tolist() == ["sky", None]
    assert (type(scalar), scalar) == (np.float32, 0.5)
    with pytest.raises(UserError, match="ran nothing of it: it asks for numpy"):
        load_restricted(path)


def test_an_array_of_numpy_1_and_python_2_comes_back(tmp_path):
    # array([1, 2], dtype=uint8) as NumPy 1 under Python 2 writes it at protocol 2: its pixels are a byte string.
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x01\xfetb."
    )
    array = load_restricted(saved(tmp_path, data), allow_numpy=True)
    assert (array.dtype, array.tolist()) == (np.uint8, [1, 254])


def test_byte_strings_of_python_2_become_text(tmp_path):
    # {"sent": "caf\xc3\xa9"} as Python 2 writes it at protocol 2 (SHORT_BINSTRING) and at protocol 0 (STRING).
    assert load_restricted(saved(tmp_path, b"\x80\x02}U\x04sentU\x05caf\xc3\xa9s.")) == {"sent": "café"}
    assert load_restricted(saved(tmp_path, b"(dS'sent'\nS'caf\\xc3\\xa9'\ns.")) == {"sent": "café"}
    # Not UTF-8, so Latin-1.
    assert load_restricted(saved(tmp_path, b"\x80\x02U\x04caf\xe9.")) == "café"


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_something_is_refused_before_it_does(tmp_path, protocol):
    harm = tmp_path / "harm"
    data = pickle.dumps(["innocent", Malicious(str(harm))], protocol)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: wanted a pickle .*ran nothing of it: it asks for .*mkdir"):
        load_restricted(saved(tmp_path, data))
    assert not harm.exists()
    pickle.loads(data)
    assert harm.exists(), "the pickle would have done harm"


class Calls:
    """Pickles as the call of something with arguments."""

    def __init__(self, called, *arguments):
        self.call = called, arguments

    def __reduce__(self):
        return self.call


RECONSTRUCT = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (Calls(os.mkdir, "harm"), "mkdir"),
        (Calls(np.save, "harm.npy", 1), r"numpy\.save"),
        (Calls(np.memmap, "harm", "u1", "w+", 0, (9,)), r"numpy\.memmap"),
        (Calls(eval, "1"), r"__builtin__\.eval"),
        (Calls(codecs.encode, "a", "rot13"), "the codec 'rot13'"),
        (Calls(RECONSTRUCT, np.ndarray, (9,), b"b"), r"an array of .* shape \(9,\)"),
    ],
)
def test_allowing_arrays_allows_no_more(tmp_path, monkeypatch, call, asked):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, pickle.dumps([np.arange(3), call], 2))
    with pytest.raises(UserError, match=f"ran nothing of it: it asks for .*{asked}"):
        load_restricted(path, allow_numpy=True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("data", [b"", b"[1, 2]", pickle.dumps([1, 2])[:-1], b"\x80\x02U\xff.", b"cposix\n"])
def test_what_is_no_pickle_is_one_sentence(tmp_path, data):
    with pytest.raises(UserError, match="wanted a pickle of lists, dicts, strings and numbers"):
        load_restricted(saved(tmp_path, data))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_restricted(tmp_path / "refs(unc).p")
