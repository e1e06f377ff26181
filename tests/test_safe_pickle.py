"""Pickles of plain values: those of Python 2 load, those that ask for more run nothing."""

import os
import pickle

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


@pytest.mark.parametrize("data", [b"", b"[1, 2]", pickle.dumps([1, 2])[:-1], b"\x80\x02U\xff.", b"cposix\n"])
def test_what_is_no_pickle_is_one_sentence(tmp_path, data):
    with pytest.raises(UserError, match="wanted a pickle of lists, dicts, strings and numbers"):
        load_restricted(saved(tmp_path, data))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_restricted(tmp_path / "refs(unc).p")
