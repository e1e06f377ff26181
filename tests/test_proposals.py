"""Generators by name and by import path, their options, and the guarded call."""

import dataclasses
import pickle

import numpy as np
import pytest

from ovseg_model.proposals.generator import (
    BUILT_IN,
    GeneratorSpec,
    ImageInput,
    MaskProposals,
    ProposalError,
    generator_kind,
    open_generator,
    propose_in_batches,
    resolve_generator,
)
from ovseg_model.proposals.options import option, parse_options
from ovseg_model.rle import Rle, encode_masks
from schemas.errors import UserError

FULL, EMPTY = encode_masks(np.stack([np.ones((2, 3), bool), np.zeros((2, 3), bool)]))


def image(name: str) -> ImageInput:
    return ImageInput(name, f"{name}.png", np.zeros((2, 3, 3), np.uint8))


class ByName:
    """Fake generator: the image_id chooses what happens; it notes the batches it saw."""

    name = "by_name"
    batch_size = 2

    def __init__(self, **outcomes):
        self.outcomes = outcomes
        self.batches = []

    def propose(self, images):
        self.batches.append([one.image_id for one in images])
        found = [self.outcomes.get(one.image_id, MaskProposals([FULL])) for one in images]
        for outcome in found:
            if isinstance(outcome, Exception):
                raise outcome
        return found


def make(threshold="0.5", *, device):
    generator = ByName()
    generator.threshold, generator.device = threshold, device
    return generator


def make_without_device(text="a"):
    return ByName()


def make_with_fingerprint(weights="w"):
    generator = ByName()
    generator.fingerprint = lambda: {"weights_sha256": f"sha of {weights}"}
    return generator


def make_with_bad_fingerprint():
    generator = ByName()
    generator.fingerprint = lambda: {"weights": object()}
    return generator


def make_broken():
    raise RuntimeError("no weights here")


def make_incomplete():
    return object()


NOT_CALLABLE = 3


@dataclasses.dataclass(frozen=True)
class Options:
    source: str = option(help="where masks come from")
    sides: tuple[float, ...] = option((1.0,), help="sides", unit="px", minimum=1, maximum=9)
    count: int = option(3, help="count", minimum=1)
    ratio: float = option(0.5, help="ratio", maximum=1)
    fast: bool = option(False, help="speed")
    mode: str = option("a", help="mode", choices=("a", "b"))


def test_options_from_words_and_from_values_are_equal():
    words = {"source": "x", "sides": "2,3.5", "count": "4", "ratio": "0.25", "fast": "true", "mode": "b"}
    values = {"source": "x", "sides": (2, 3.5), "count": 4, "ratio": 0.25, "fast": True, "mode": "b"}
    assert parse_options("g", Options, words) == Options(**values) == parse_options("g", Options, values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"source": "x", "cuont": "1"},
            "g: unknown option 'cuont'; did you mean count\\? known: count, fast, mode",
        ),
        ({}, r"option source is missing \(where masks come from\); give source=VALUE"),
        ({"source": "x", "count": "0"}, "option count wants a whole number, 1 or more; got '0'"),
        ({"source": "x", "count": "1.5"}, "option count wants a whole number, 1 or more; got '1.5'"),
        ({"source": "x", "count": True}, "option count wants a whole number, 1 or more; got True"),
        ({"source": "x", "ratio": "nan"}, "option ratio wants a number, 1 or less; got 'nan'"),
        ({"source": "x", "sides": "2,10"}, "numbers with commas between, 1 or more, 9 or less; got '2,10'"),
        ({"source": "x", "fast": "perhaps"}, "option fast wants true or false; got 'perhaps'"),
        ({"source": "x", "mode": "c"}, "option mode wants one of a, b; got 'c'"),
        ({"source": 7}, "option source wants a text; got 7"),
    ],
)
def test_bad_options_are_one_sentence(given, message):
    with pytest.raises(UserError, match=message):
        parse_options("g", Options, given)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_option_of_every_generator_has_help(name):
    fields = dataclasses.fields(generator_kind(name).options)
    assert fields
    assert all(field.metadata["help"] for field in fields)


def test_unknown_generator_names_the_known_ones():
    with pytest.raises(UserError, match="'felzenswalb' is not known: did you mean felzenszwalb\\? known: annotations"):
        resolve_generator("felzenswalb", {}, "cpu", "")


def test_spec_survives_pickling_and_opens():
    spec = resolve_generator("felzenszwalb", {"max_masks": "5"}, "cpu", "")
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec and hash(again) == hash(spec)
    assert open_generator(again).options.max_masks == 5


def test_fingerprint_has_options_and_not_the_device():
    on_cpu = resolve_generator("felzenszwalb", {"max_masks": "5"}, "cpu", "").fingerprint()
    assert on_cpu["generator"] == "felzenszwalb"
    assert on_cpu["options"]["max_masks"] == 5
    assert on_cpu == resolve_generator("felzenszwalb", {"max_masks": 5}, "cuda", "/elsewhere").fingerprint()
    assert on_cpu != resolve_generator("felzenszwalb", {"max_masks": 6}, "cpu", "").fingerprint()


def test_plug_in_gets_options_and_device():
    spec = resolve_generator(f"{__name__}:make", {"threshold": "0.7"}, "cuda:1", "")
    generator = open_generator(spec)
    assert (generator.threshold, generator.device) == ("0.7", "cuda:1")
    assert spec.fingerprint() == {
        "generator": f"{__name__}:make",
        "version": None,
        "options": {"threshold": "0.7"},
        "device": "cuda:1",
    }


def test_plug_in_that_takes_no_device_does_not_hash_it():
    spec = resolve_generator(f"{__name__}:make_without_device", {}, "cuda", "")
    assert "device" not in spec.fingerprint()


def test_plug_in_says_itself_what_it_is():
    spec = resolve_generator(f"{__name__}:make_with_fingerprint", {"weights": "/some/path"}, "cpu", "")
    assert spec.fingerprint() == {
        "generator": f"{__name__}:make_with_fingerprint",
        "weights_sha256": "sha of /some/path",
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "no_such_module:make",
            {},
            "wanted package.module:factory, importable here; got ModuleNotFoundError",
        ),
        (":make", {}, "wanted package.module:factory"),
        ("{}:nothing", {}, "got AttributeError"),
        ("{}:NOT_CALLABLE", {}, "wanted something to call, got a int"),
        (
            "{}:make",
            {"treshold": "1"},
            "got an unexpected keyword argument 'treshold'; its factory takes threshold",
        ),
        ("{}:make_broken", {}, "the factory failed with {}: RuntimeError: no weights here"),
        ("{}:make_incomplete", {}, "returned a object without 'name'"),
        ("{}:make_with_bad_fingerprint", {}, "its fingerprint must be plain JSON values"),
    ],
)
def test_bad_plug_ins_are_one_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        resolve_generator(name.replace("{}", __name__), options, "cpu", "")


def test_batches_have_the_generators_size_and_order():
    generator = ByName(b=ProposalError("no_annotation", "none"))
    outcomes = propose_in_batches(generator, [image(name) for name in "abc"])
    assert outcomes == [MaskProposals([FULL]), ProposalError("no_annotation", "none"), MaskProposals([FULL])]
    assert generator.batches == [["a", "b"], ["c"]]


def test_no_images():
    assert propose_in_batches(ByName(), []) == []


def test_image_that_raises_is_dropped_alone():
    generator = ByName(b=ZeroDivisionError("in a plug-in"))
    outcomes = propose_in_batches(generator, [image(name) for name in "ab"])
    assert outcomes == [
        MaskProposals([FULL]),
        ProposalError("proposal_failed", "ZeroDivisionError: in a plug-in"),
    ]
    assert generator.batches == [["a", "b"], ["a"], ["b"]]


@pytest.mark.parametrize(
    "error",
    [
        UserError("x"),
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})(),
        type("AcceleratorError", (RuntimeError,), {})("unspecified launch failure"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_errors_that_are_no_fault_of_an_image_pass_through(error):
    with pytest.raises(type(error)):
        propose_in_batches(ByName(a=error), [image("a")])


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (MaskProposals([]), ProposalError("no_masks", "the generator found no mask")),
        (MaskProposals([EMPTY]), ProposalError("no_masks", "the generator found no mask")),
        (MaskProposals([EMPTY, FULL], [0.1, 0.2], None), MaskProposals([FULL], [0.2], None)),
        (
            MaskProposals([Rle(size=[3, 2], counts="06")]),
            ProposalError("mask_size_mismatch", "mask 0: wanted [2, 3], got [3, 2]"),
        ),
        (
            MaskProposals([Rle(size=[2, 3], counts="05")]),
            ProposalError("proposal_failed", "mask 0: its runs cover 5 pixels, its size is [2, 3]"),
        ),
        (
            MaskProposals([FULL], [0.1, 0.2]),
            ProposalError("proposal_failed", "wanted one score a mask, for 1 masks"),
        ),
    ],
)
def test_outcomes_are_checked(outcome, expected):
    assert propose_in_batches(ByName(a=outcome), [image("a")]) == [expected]


def test_outcomes_of_another_type_are_the_plug_ins_mistake():
    with pytest.raises(UserError, match="must return MaskProposals or a ProposalError an image; got a list"):
        propose_in_batches(ByName(a=[FULL]), [image("a")])


def test_too_few_outcomes_are_the_plug_ins_mistake():
    generator = ByName()
    generator.propose = lambda images: []
    with pytest.raises(UserError, match="by_name: propose must return one outcome an image; got 0 for 1"):
        propose_in_batches(generator, [image("a")])


def test_reasons_are_a_closed_list():
    with pytest.raises(ValueError, match=r"wanted one of no_masks, no_annotation, .* got 'tired'"):
        ProposalError("tired", "")


def test_spec_of_an_unknown_name_does_not_open():
    with pytest.raises(UserError, match=r"a generator of your own is named package\.module:factory"):
        open_generator(GeneratorSpec("sam3", (), "cpu", "{}"))
