"""Licences of weights: what is known, and null for the rest."""

import pytest

from ovseg_model.clip import ClipWeights
from ovseg_model.proposals import GeneratorSpec
from ovseg_model.weight_licences import clip_licence, generator_weights, licence_of_card
from pipelines.plan import weights_at


def clip(name, tag):
    return ClipWeights(f"{name}/{tag}", name, tag, None, "00", 0, meaningless=False)


@pytest.mark.parametrize(
    ("weights", "licence"),
    [
        (clip("ViT-B-16", "openai"), "MIT"),
        (clip("ViT-B-32", "laion2b_s34b_b79k"), "MIT"),
        (clip("ViT-B-16", "datacomp_xl_s13b_b90k"), "MIT"),
        (clip("ViT-B-16-quickgelu", "metaclip_400m"), "CC-BY-NC-4.0"),
        (clip("ViT-H-14-quickgelu", "dfn5b"), "apple-amlr"),
        (clip("ViT-B-16-SigLIP", "webli"), None),
        (clip("ViT-B-16", "random"), None),
        (clip("ViT-B-16", "checkpoint"), None),
        (ClipWeights("scenes", "local-dir:x", "checkpoint", "x", "00", 1, meaningless=False), "Apache-2.0"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_clips_licence(weights, licence):
    assert clip_licence(weights) == licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags:\n- vision\n---\n# Model", "mit"),
        ("---\nlicense: other\nlicense_name: apple-amlr\nlicense_link: LICENSE\n---\n", "apple-amlr"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags:\n- vision\n---\nlicense: mit", None),
        ("# Model\nlicense: mit", None),
        ("", None),
    ],
)
def test_a_model_card_says_it_in_its_metadata(card, licence):
    assert licence_of_card(card) == licence


def spec(name, options, **places):
    return GeneratorSpec(name, tuple(options.items()), "cpu", "{}", tuple(places.items()))


@pytest.mark.parametrize(("file", "licence"), [("sam_vit_b_01ec64.pth", "Apache-2.0"), ("mine.pth", None)])
def test_sams_released_files_are_known_by_name(tmp_path, file, licence):
    path = tmp_path / file
    path.write_bytes(b"12345")
    found = generator_weights(spec("sam", {"checkpoint": str(path)}, path=str(path), sha256="ab"))
    assert found == [{"name": file, "sha256": "ab", "bytes": 5, "licence": licence}]


def test_a_networks_licence_is_its_cards(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"123")
    generator = spec("maskformer", {"weights": "a/b"}, folder=str(tmp_path), file="model.safetensors", sha256="ab")
    assert generator_weights(generator) == [{"name": "a/b", "sha256": "ab", "bytes": 3, "licence": None}]
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: x\n---\n")
    assert generator_weights(generator)[0]["licence"] == "x"
    local = spec("maskformer", {"weights": str(tmp_path)}, **dict(generator.places))
    assert generator_weights(local)[0]["name"] == tmp_path.name


def test_generators_without_weights_have_none():
    assert generator_weights(None) == generator_weights(spec("felzenszwalb", {})) == []
    assert generator_weights(spec("mine:make", {})) == []


def test_a_user_says_what_is_not_known_and_nothing_else():
    found = [{"name": "a", "licence": None}, {"name": "b", "licence": "MIT"}]
    assert weights_at("match_regions", found, "own") == (
        {"stage": "match_regions", "name": "a", "licence": "own"},
        {"stage": "match_regions", "name": "b", "licence": "MIT"},
    )
