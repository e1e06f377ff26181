"""OVSeg's proposal network: its file, its probabilities, the frame of its masks; and hard masks from any generator."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from fakes import HalvesGenerator
from tiny_networks import FACTS, QUERIES, Rigged, tiny_model, unit_vectors, write_maskformer, write_ovseg
from torch.nn.functional import interpolate, normalize

from ovseg_model.proposals import MaskProposals, ProposalError
from ovseg_model.proposals.generator import ImageInput
from ovseg_model.proposals.network_input import InputSize, pad_batch
from ovseg_model.proposals.network_weights import resolve_network
from ovseg_model.proposals.proposal_network import (
    INITIAL_TYPES,
    ProposalModel,
    initialise,
    load_model,
    load_network,
    preset_config,
    save_network,
)
from ovseg_model.proposals.query_network import PlainClassifier, QueryNetwork, open_network
from ovseg_model.proposals.soft import HardProposals
from schemas.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ovseg(tmp_path_factory.mktemp("networks") / "ovseg")


@pytest.fixture(scope="module")
def network(folder):
    return load_network(resolve_network(str(folder)))


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return ImageInput(str(seed), f"{seed}.png", pixels)


# The file.


def test_a_saved_network_comes_back_and_is_saved_to_the_same_bytes(folder, tmp_path):
    model, facts, vectors_KD = load_model(resolve_network(str(folder)))
    assert facts == FACTS
    assert vectors_KD.tolist() == unit_vectors(2).tolist()
    for name, tensor in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    save_network(tmp_path, model, facts, vectors_KD)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_seeds_decide_first_weights():
    one, again, other = (tiny_model(seed).no_object_D for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_weights_of_another_network_are_refused(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    write_ovseg(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / "model.safetensors", broken)
    with pytest.raises(UserError, match=r"does not belong to model.safetensors beside it"):
        load_network(resolve_network(str(broken)))


def test_weights_that_do_not_fit_say_by_which_transformers(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text()) | {"embed_dim": 17, "transformers_version": "0.1"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit .* saved under transformers 0.1"):
        load_network(resolve_network(str(broken)))


def test_presets_have_the_papers_sizes():
    config = preset_config("swin-b", 100)
    decoder = config["decoder_config"]
    assert (decoder["encoder_layers"], decoder["decoder_layers"], decoder["decoder_ffn_dim"]) == (0, 6, 2048)
    assert (decoder["d_model"], decoder["num_queries"], decoder["dropout"]) == (256, 100, 0.1)
    assert (config["fpn_feature_size"], config["mask_feature_size"]) == (256, 256)
    assert preset_config("r101", 100)["backbone_config"]["depths"] == [3, 4, 23, 3]


# Probabilities.


def test_logits_are_hundred_times_the_cosine():
    model = tiny_model()
    with torch.no_grad():
        model.no_object_D.copy_(torch.tensor([3.0] + [0.0] * 15))
    embedding = torch.zeros(16)
    embedding[:2] = torch.tensor([3.0, 4.0])
    logits = model.class_logits(embedding, torch.eye(16)[[1, 2]])
    assert logits.tolist() == pytest.approx([80.0, 0.0, 60.0], abs=1e-4)


def test_class_probability_is_the_softmax_without_no_object(network):
    image, vectors_KD = noise(64, 64), unit_vectors(5)
    [found] = network.propose_soft([image], vectors_KD)
    [queries] = network.queries([image.pixels_HW3])
    model = network._module
    all_vectors = torch.cat([torch.tensor(vectors_KD), normalize(model.no_object_D, dim=0)[None]])
    wanted = (100 * normalize(queries.heads_NX, dim=1) @ all_vectors.T).softmax(dim=1)
    assert found.class_probability_NK.shape == (QUERIES, 5)
    assert found.class_probability_NK == pytest.approx(wanted[:, :5].numpy(), abs=1e-6)
    assert (found.class_probability_NK.sum(axis=1) <= 1 + 1e-6).all()
    left = 1 - found.class_probability_NK.sum(axis=1)
    assert left == pytest.approx(wanted[:, 5].numpy(), abs=1e-5)


def test_other_text_towers_and_templates_are_refused_before_work(network):
    names = []

    def embedded(vectors_KD):
        def embed(asked):
            names.append(list(asked))
            return vectors_KD

        return embed

    trained_KD = unit_vectors(2)
    network.check_vectors(embedded(trained_KD))
    assert names == [["sky", "ball"]]
    # .995 of the second vector and what is left at a right angle to it: still near enough; .98 is not.
    other_D = unit_vectors(1, seed=9)[0]
    other_D -= (other_D @ trained_KD[1]) * trained_KD[1]
    other_D /= np.linalg.norm(other_D)
    for cosine in (0.995, 0.98):
        moved_KD = trained_KD.copy()
        moved_KD[1] = cosine * trained_KD[1] + np.sqrt(1 - cosine**2) * other_D
        if cosine > 0.99:
            network.check_vectors(embedded(moved_KD))
            continue
        sentence = r"by CLIP my-clip and templates photo \(1\); by --clip .* 'ball' has cosine 0.98 with its vector"
        with pytest.raises(UserError, match=sentence):
            network.check_vectors(embedded(moved_KD))
    with pytest.raises(UserError, match=r"my-clip and .*, of 16 dimensions; got 8"):
        network.check_vectors(embedded(unit_vectors(2, dimensions=8)))


def test_eight_training_names_are_enough_to_tell(network, monkeypatch):
    asked = []
    monkeypatch.setattr(network, "facts", dataclasses.replace(FACTS, classes=tuple(f"thing {n}" for n in range(19))))
    monkeypatch.setattr(network, "_trained_KD", unit_vectors(19))

    def embed(names):
        asked.extend(names)
        return unit_vectors(19)[[int(name.split()[1]) for name in names]]

    network.check_vectors(embed)
    assert asked == [f"thing {n}" for n in range(0, 16, 2)]


def test_vectors_of_another_clip_are_refused(network):
    with pytest.raises(UserError, match="16 dimensions, by my-clip; got 8"):
        network.propose_soft([noise(64, 64)], unit_vectors(5, dimensions=8))


def test_every_layer_ends_with_the_last():
    model = tiny_model().eval()
    pixels = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings, masks = model(pixels)
        embeddings_LBND, masks_LBNhw = model(pixels, every_layer=True)
    assert embeddings_LBND.shape == (2, 2, QUERIES, 16) and masks_LBNhw.shape == (2, 2, QUERIES, 16, 8)
    torch.testing.assert_close(embeddings_LBND[-1], embeddings)
    torch.testing.assert_close(masks_LBNhw[-1], masks)
    assert not torch.allclose(masks_LBNhw[0], masks, atol=1e-3)


# The frame.


def test_masks_are_those_of_the_padded_input_cut_to_the_image(network):
    image = noise(64, 80)
    [found] = network.propose_soft([image], unit_vectors(3))
    pixels = pad_batch([image.pixels_HW3], (64, 96), FACTS.mean, FACTS.std, "cpu")
    assert pixels[0, :, :, 80:].abs().max() == 0
    assert pixels[0, :, 5, 7].tolist() == pytest.approx(
        [
            (value / 255 - mean) / std
            for value, mean, std in zip(image.pixels_HW3[5, 7], FACTS.mean, FACTS.std, strict=True)
        ],
        abs=1e-5,
    )
    with torch.no_grad():
        _, masks_1Nhw = network._module(pixels)
    whole = interpolate(masks_1Nhw, (64, 96), mode="bilinear", align_corners=False).sigmoid()[0]
    assert found.masks_Nhw.dtype == np.float32 and found.masks_Nhw.shape == (QUERIES, 64, 80)
    assert found.masks_Nhw == pytest.approx(whole[:, :, :80].numpy(), abs=1e-6)


def test_images_are_read_at_the_size_of_training(network):
    [found] = network.propose_soft([noise(128, 200)], unit_vectors(3))
    assert found.masks_Nhw.shape == (QUERIES, 64, 100)


def test_a_batch_gives_what_single_images_give(network):
    images, vectors_KD = [noise(64, 70, 1), noise(64, 90, 2), noise(90, 64, 3)], unit_vectors(4)
    together = network.propose_soft(images, vectors_KD)
    for one, each in zip(images, together, strict=True):
        [alone] = network.propose_soft([one], vectors_KD)
        assert each.masks_Nhw == pytest.approx(alone.masks_Nhw, abs=1e-5)
        assert each.class_probability_NK == pytest.approx(alone.class_probability_NK, abs=1e-4)


# Networks without classes.


def plain(use_objectness):
    statistics = ((0.0,) * 3, (1 / 255,) * 3)
    return QueryNetwork("rigged", Rigged(2), PlainClassifier(use_objectness), statistics, InputSize(32, 64))


def test_a_plain_network_has_soft_masks_and_no_classes():
    [found] = plain(False).propose_soft([ImageInput("a", "a", np.full((32, 40, 3), 50, np.uint8))], unit_vectors(4))
    assert found.class_probability_NK is None
    assert found.masks_Nhw.shape == (2, 32, 40)
    # Logits are 4 in the image and -4 in its padding, 4 px apart: the last columns lie between the two.
    logits = np.array([4.0] * 38 + [3.0, 1.0])
    assert found.masks_Nhw[0] == pytest.approx(np.tile(1 / (1 + np.exp(-logits)), (32, 1)), rel=1e-5)
    assert found.masks_Nhw[1] == pytest.approx(1 / (1 + np.exp(4)), rel=1e-5)


def test_objectness_is_spread_over_the_classes():
    [found] = plain(True).propose_soft([ImageInput("a", "a", np.full((32, 40, 3), 50, np.uint8))], unit_vectors(4))
    wanted = [2 / 3 / 4, 2 / (2 + np.exp(-1)) / 4]
    assert found.class_probability_NK == pytest.approx(np.repeat(wanted, 4).reshape(2, 4), rel=1e-6)


# Hard masks.


def test_any_generator_gives_hard_masks():
    proposals = HardProposals(HalvesGenerator())
    white, black = np.full((2, 4, 3), 255, np.uint8), np.zeros((3, 5, 3), np.uint8)
    found = proposals.propose_soft([ImageInput("a", "a", white), ImageInput("b", "b", black)], unit_vectors(2))
    assert (proposals.name, proposals.batch_size) == ("halves", 2)
    assert found[0].masks_Nhw.tolist() == [[[True, True, False, False]] * 2, [[False, False, True, True]] * 2]
    assert found[0].class_probability_NK is None
    assert found[1].masks_Nhw.shape == (0, 3, 5) and found[1].masks_Nhw.dtype == bool


def test_only_a_failure_is_an_error():
    class Fails:
        name, batch_size = "fails", 1

        def propose(self, images):
            return [ProposalError("no_annotation", "")] if images[0].image_id == "0" else [MaskProposals([])]

    failed, none = HardProposals(Fails()).propose_soft([noise(4, 4, 0), noise(4, 4, 1)], unit_vectors(2))
    assert failed.reason == "no_annotation"
    assert len(none.masks_Nhw) == 0


# What training begins with.


def test_a_maskformer_gives_all_but_its_class_head(tmp_path):
    weights = resolve_network(str(write_maskformer(tmp_path / "mf")), model_types=INITIAL_TYPES)
    model = tiny_model(seed=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise(model, weights)
    theirs = open_network(weights)._module.model.state_dict()
    for name, tensor in model.state_dict().items():
        expected = before[name] if name.startswith(("class_embedder", "no_object")) else theirs[name]
        assert torch.equal(tensor, expected), name


def swin(**changes):
    from transformers import SwinConfig, SwinModel

    config = {**preset_config("tiny", QUERIES)["backbone_config"], **changes}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SwinModel(
            SwinConfig(**{name: config[name] for name in ("embed_dim", "depths", "num_heads", "window_size")})
        )


def save_quietly(model, folder):
    from ovseg_model.proposals.query_network import quiet_transformers

    with quiet_transformers():
        model.save_pretrained(folder)
    return resolve_network(str(folder), model_types=INITIAL_TYPES)


def test_a_published_backbone_is_taken_over(tmp_path):
    published, model = swin(), tiny_model()
    initialise(model, save_quietly(published, tmp_path))
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ours = model.model.pixel_level_module.encoder.model
    with torch.no_grad():
        wanted = published.eval()(pixels).last_hidden_state
        found = ours.eval()(pixels).last_hidden_state
    torch.testing.assert_close(found, wanted)
    table = "encoder.layers.2.blocks.1.attention.self.relative_position_bias_table"
    theirs = published.encoder.layers[2].blocks[1].attention.relative_position_bias.relative_position_bias_table
    assert torch.equal(ours.state_dict()[table], theirs)


def test_a_backbone_of_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--init .* does not fit the preset: size mismatch"):
        initialise(tiny_model(), save_quietly(swin(embed_dim=16), tmp_path))


def test_a_backbone_of_fewer_blocks_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--init .* does not fit the preset: it has no .*layers.2.blocks.1"):
        initialise(tiny_model(), save_quietly(swin(depths=[1, 1, 1, 1]), tmp_path))


def test_facts_hold_only_plain_values():
    assert json.loads(json.dumps(dataclasses.asdict(FACTS)))["clip"] == "my-clip"
    assert ProposalModel(preset_config("tiny", 3), 8, 16).embed_dim == 8
