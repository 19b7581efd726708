import json

import numpy as np
import open_clip
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from erase.canvas import build, generator, judge, towers, training, weights
from erase.canvas.dataset import Pictures
from erase.canvas.tokens import LENGTH, add_noise_tokens, noise_tokens, token_ids, train_tokenizer
from erase.canvas.world import OBJECT_NAMES, STYLE_NAMES


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 48, 48, 3), dtype=np.uint8)
    second = np.where(np.arange(24) % 4 == 0, 5, -1)
    return Pictures(images, np.arange(24) % 10, np.arange(24) % 5, second)


def test_the_end_token_has_the_largest_id_and_nothing_is_unknown(tokenizer):
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    ids = tokenizer("A Cats image in Van Gogh style. Ünïcode ☃ 42").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.model_max_length == LENGTH


def test_tokenizer_learning_is_deterministic(tokenizer):
    assert train_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_noise_tokens_leave_the_concepts_alone(tokenizer):
    pool = noise_tokens(tokenizer)
    words = set(tokenizer("cats van gogh starry night painter").input_ids)
    assert not words & set(pool.tolist())
    ids = token_ids(tokenizer, ["cat", "Van Gogh"], pad=False)
    noisy = add_noise_tokens(ids, pool, 1.0, torch.Generator().manual_seed(0))
    for before, after in zip(ids, noisy, strict=True):
        kept = [t for t in after.tolist() if t not in set(pool.tolist())]
        assert kept[: len(before)] == before.tolist()[: len(kept)]
        assert len(set(after.tolist()) & set(pool.tolist())) >= 1


def test_compatible_captions():
    shown = torch.tensor([[1, 2, -1], [1, 2, 3]])
    said = torch.tensor([[1, 2, -1], [1, -1, -1], [-1, 2, -1], [1, 3, 2], [0, 2, -1]])
    assert towers.compatible(shown, said).tolist() == [
        [True, True, True, False, False],
        [False, True, False, True, False],
    ]


def test_open_clip_reads_the_towers_and_agrees(tokenizer, tmp_path):
    torch.manual_seed(0)
    built = towers.Towers(tokenizer).eval()
    towers.save_clip(built, tokenizer, tmp_path)
    model = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    ids = token_ids(tokenizer, ["A Cats image in Photo style.", "néon"], pad=True)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["A Cats image in Photo style.", "néon"]), ids)
    with torch.no_grad():
        text = built.text(ids).pooler_output @ built.text_projection
        assert torch.allclose(model.encode_text(ids), text, atol=2e-2, rtol=2e-2)
        pixels = torch.rand(2, 3, 64, 64)
        assert torch.allclose(model.encode_image(pixels), built.visual(pixels), atol=2e-2, rtol=2e-2)


def test_the_text_model_pools_at_the_end_token(tokenizer, tmp_path):
    text = towers.Towers(tokenizer).text.eval()
    text.save_pretrained(tmp_path)
    text = CLIPTextModel.from_pretrained(tmp_path)
    short, long = (token_ids(tokenizer, ["a cat"], pad=pad) for pad in (False, True))
    with torch.no_grad():
        assert torch.allclose(text(short).pooler_output, text(long).pooler_output, atol=1e-5)


def test_without_leaves_no_trace_of_a_concept(pictures):
    style = generator.without(pictures, STYLE_NAMES[3])
    assert 3 not in style.style
    obj = generator.without(pictures, OBJECT_NAMES[5])
    assert 5 not in obj.first
    assert 5 not in obj.second
    with pytest.raises(ValueError, match="neither a style nor an object"):
        generator.without(pictures, "Dali")


def test_caption_bank_covers_every_label(pictures, tokenizer):
    text = towers.Towers(tokenizer).text.eval()
    bank = generator.encode_captions(pictures, text, tokenizer, seed=0)
    labels = {tuple(map(int, row)) for row in zip(*pictures[1:], strict=True)}
    assert set(bank.starts) == labels
    assert len(bank.hidden_states) == sum(bank.counts.values())
    assert bank.hidden_states.shape[1:] == (LENGTH, towers.WIDTH)


def test_object_targets_mark_both_objects(pictures):
    targets = judge.object_targets(pictures)
    assert targets.sum(1).tolist() == [1.0 + (s >= 0 and s != f) for f, s in zip(*pictures[2:], strict=True)]
    assert targets[4, [4, 5]].tolist() == [1.0, 1.0]


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 5)

    def fit(path, steps, stop_at=None):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        calls = 0

        def loss(generator):
            nonlocal calls
            calls += 1
            if stop_at and calls > stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 3, generator=generator)
            return (module(x)[:, 0] - x.sum(1)).square().mean()

        try:
            training.fit(module, loss, steps=steps, learning_rate=1e-2, seed=1, path=path)
        except KeyboardInterrupt:
            return None
        return torch.cat([t.flatten().float() for t in module.state_dict().values()])

    unbroken = fit(tmp_path / "a.safetensors", 20)
    assert fit(tmp_path / "b.safetensors", 20, stop_at=13) is None
    assert torch.equal(fit(tmp_path / "b.safetensors", 20), unbroken)
    assert not torch.equal(fit(tmp_path / "c.safetensors", 19), unbroken)


def test_a_gold_model_of_any_concept_is_trained_on_the_shipped_parts(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(build.STEPS, "unet", 2)
    np.savez(tmp_path / "generator.npz", **pictures._asdict())
    build.train_stage("gold-Mosaic", tmp_path, tmp_path / "work", tmp_path / "out")
    trained = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "gold" / "Mosaic")
    assert trained.config.cross_attention_dim == weights.load_base().text_encoder.config.hidden_size
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["stages"]["gold-Mosaic"]["steps"] == 2
    with pytest.raises(FileNotFoundError, match="train the stages vae and towers first"):
        build.train_stage("unet", tmp_path, tmp_path / "work2", tmp_path / "out")
    with pytest.raises(ValueError, match="gold-<concept>"):
        build.train_stage("gold-Dali", tmp_path, tmp_path / "work", tmp_path / "out")


def test_the_recipe_keeps_what_was_said_of_other_stages(tmp_path):
    weights.write_recipe("vae", {"steps": 1}, tmp_path)
    weights.write_recipe("unet", {"steps": 2}, tmp_path)
    weights.write_recipe("vae", {"steps": 3}, tmp_path)
    content = json.loads((tmp_path / "recipe.json").read_text())
    assert content == {"schema_version": 2, "stages": {"vae": {"steps": 3}, "unet": {"steps": 2}}}


def test_an_object_in_a_part_of_the_picture_counts_in_full():
    torch.manual_seed(0)
    model = judge.Judge().eval()
    with torch.no_grad():
        model.object.weight.zero_()[0, 0] = 1.0
        places = torch.zeros(1, judge.FEATURES, 6, 6)
        places[0, 0, 1, 4] = 50.0  # one place of 36 shows it
        model.trunk = torch.nn.Identity()
        model.object.bias.zero_()
        assert model(places).object_logits[0, 0] > 40  # a mean would give 1.4
