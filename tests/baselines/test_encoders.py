"""Text encoders on tiny models with real tokenizers: padding, pooling, blocks, identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2Model,
    GPT2TokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
)

from baselines.common import text_encoder, transformer_encoder
from baselines.common.encoders import MINILM_PACKAGE, HashedEncoder, TransformerEncoder, resolve_encoder
from kpi_bench.errors import SubmissionError

WORDS = ["a", "good", "game", "for", "the", "whole", "family", "never", "again"]
TEXTS = [
    "a good game",
    "",
    "never",
    "for the whole family the whole family",
    "乐",
    "a good game",
    " ".join(WORDS * 9),
]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def save_bert(folder: Path, *, words: list[str] = WORDS, seed: int = 0, **config: float) -> None:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    BertTokenizerFast(vocabulary).save_pretrained(folder)
    save(
        BertModel,
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=40, **SIZE, **config),
        folder,
        seed,
    )


def save_roberta(folder: Path, *, pooler: bool = True, seed: int = 0) -> None:
    tokenizer = RobertaTokenizerFast(byte_vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), [])
    tokenizer.save_pretrained(folder)
    # As in the published models: positions start after the pad id 1, so two more of them than tokens.
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=42, **SIZE)
    save(lambda c: RobertaModel(c, add_pooling_layer=pooler), config, folder, seed)


def save_gpt2(folder: Path, *, seed: int = 0) -> None:
    tokenizer = GPT2TokenizerFast(byte_vocabulary(["<|endoftext|>"]), [])
    assert tokenizer.pad_token_id is None, "the case must lack a pad token"
    tokenizer.save_pretrained(folder)
    save(
        GPT2Model,
        GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=40),
        folder,
        seed,
    )


def byte_vocabulary(special: list[str]) -> dict[str, int]:
    """One token a byte, as the byte-level tokenizers write bytes; no merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: i for i, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}


def save(make: Callable[..., nn.Module], config: object, folder: Path, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(config)
        for parameter in model.parameters():
            # Far from the initial 0.02, with which all vectors of a model look alike.
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


FAMILIES = {"bert": save_bert, "roberta": save_roberta, "gpt2": save_gpt2}
CASES = [
    ("bert", "mean"),
    ("bert", "pooler"),
    ("bert", "last"),
    ("roberta", "mean"),
    ("roberta", "pooler"),
    ("roberta", "last"),
    ("gpt2", "mean"),
    ("gpt2", "last"),
]


def build(family: str, folder: Path, pooling: str = "mean", max_length: int = 24) -> TransformerEncoder:
    FAMILIES[family](folder)
    return TransformerEncoder(family, folder, max_length=max_length, pooling=pooling)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_padding_does_not_change_a_vector(family: str, pooling: str, tmp_path: Path) -> None:
    encoder = build(family, tmp_path, pooling)
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), 16)
    assert together.dtype == torch.float32
    assert torch.equal(together[0], together[5])
    assert torch.pdist(together[[0, 1, 2, 3, 4, 6]]).min() > 1e-3
    for text, vector in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(vector, expected(encoder, text), atol=1e-5, rtol=1e-4)


def expected(encoder: TransformerEncoder, text: str) -> torch.Tensor:
    """The vector of one text by the model's plain call: no padding, no mask."""
    ids = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"]
    with torch.no_grad():
        output = encoder.model(input_ids=torch.tensor([ids or [encoder.tokenizer.bos_token_id]]))
    if encoder.pooling == "pooler":
        return output.pooler_output[0]
    hidden = output.last_hidden_state[0]
    return hidden[-1] if encoder.pooling == "last" else hidden.mean(0)


def test_last_is_left_padding_with_positions_from_the_first_real_token(tmp_path: Path) -> None:
    encoder = build("gpt2", tmp_path, "last")
    ids = encoder.tokenize(["a good game", "never"])
    width = max(map(len, ids))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        left = encoder.model(input_ids=tokens, attention_mask=mask, position_ids=positions).last_hidden_state
        shifted = encoder.model(input_ids=tokens, attention_mask=mask).last_hidden_state
    right = encoder.encode(["a good game", "never"])
    torch.testing.assert_close(right, left[:, -1], atol=1e-5, rtol=1e-4)
    # The other way to pad on the left, positions from the first pad, gives another vector wherever there is a pad.
    torch.testing.assert_close(right[0], shifted[0, -1], atol=1e-5, rtol=1e-4)
    assert (right[1] - shifted[1, -1]).norm() > 0.1


def test_a_frozen_pooler_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    save_roberta(tmp_path, pooler=False)

    def load(pooling: str) -> TransformerEncoder:
        return TransformerEncoder("roberta", tmp_path, max_length=8, pooling=pooling)

    with pytest.raises(SubmissionError, match="without its pooler"):
        load("pooler").encode(["a"])
    torch.testing.assert_close(load("mean").encode(["a"])[0], expected(load("mean"), "a"))
    # Tuning may start from a drawn pooler: it is drawn alike each time, and what is drawn next does not depend on it.
    torch.manual_seed(1)
    first, after = load("pooler"), torch.rand(1)
    torch.manual_seed(2)
    second = load("pooler")
    assert torch.equal(first.model.pooler.dense.weight, second.model.pooler.dense.weight)
    assert first.model.pooler.dense.weight.std() > 0
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert first.identity() == second.identity()


def test_a_model_without_a_pooler_and_unknown_poolings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="has no pooler"):
        build("gpt2", tmp_path, "pooler").encode(["a"])
    with pytest.raises(SubmissionError, match="mean, pooler, last"):
        TransformerEncoder("gpt2", tmp_path, max_length=8, pooling="first")


@pytest.mark.parametrize("family", ["hashed", "bert"])
def test_blocks_hold_each_row_once_and_are_small(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 30))) for _ in range(57)]
    encoder = HashedEncoder(16) if family == "hashed" else build(family, tmp_path)
    whole = encoder.encode(texts)
    monkeypatch.setattr("baselines.common.encoders.VALUES_PER_BLOCK", 80)
    monkeypatch.setattr(text_encoder, "VALUES_PER_BLOCK", 80)
    monkeypatch.setattr(transformer_encoder, "_TEXTS_PER_CHUNK", 10)
    monkeypatch.setattr(transformer_encoder, "_TOKENS_PER_BATCH", 80)
    blocks = list(encoder.blocks(texts))
    assert sorted(np.concatenate([rows for rows, _ in blocks]).tolist()) == list(range(57))
    assert len(blocks) >= 12
    for rows, features in blocks:
        assert features.dtype == np.float32
        assert features.shape == (len(rows), 16)
        torch.testing.assert_close(torch.from_numpy(features), whole[rows], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.encode([*texts, *texts]), whole.repeat(2, 1), atol=1e-5, rtol=1e-4)


def test_longest_texts_come_first_whatever_their_alphabet(tmp_path: Path) -> None:
    encoder = build("roberta", tmp_path, max_length=40)
    texts = ["abcdefgh", "音乐很好听", "a", "ab" * 12]
    assert np.concatenate([rows for rows, _ in encoder.blocks(texts)]).tolist() == [3, 1, 0, 2]


def test_blocks_leave_the_mode_of_autograd_alone(tmp_path: Path) -> None:
    encoder = build("bert", tmp_path)
    for _ in encoder.blocks(["a", "good"]):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    layer = nn.Linear(16, 1)
    layer(encoder.encode(["a"])).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("family", ["hashed", "bert", "gpt2"])
@pytest.mark.parametrize("texts", [[], [""], ["a good game"], ["never"] * 5, [""] * 3])
def test_few_and_equal_texts(family: str, texts: list[str], tmp_path: Path) -> None:
    encoder = HashedEncoder(16) if family == "hashed" else build(family, tmp_path)
    features = encoder.encode(texts)
    assert features.shape == (len(texts), 16)
    assert torch.isfinite(features).all()
    assert all(torch.equal(row, features[0]) for row in features)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=8), max_size=12), st.integers(1, 40), st.integers(1, 60))
def test_hashed_features_do_not_depend_on_the_block(texts: list[str], dim: int, values: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baselines.common.encoders.VALUES_PER_BLOCK", values)
        patch.setattr(text_encoder, "VALUES_PER_BLOCK", values)
        features = HashedEncoder(dim).encode(texts)
    for text, row in zip(texts, features, strict=True):
        assert torch.equal(row, HashedEncoder(dim).encode([text])[0])


def test_identity_is_the_checkpoint_and_not_the_object_or_its_use(tmp_path: Path) -> None:
    encoder = build("bert", tmp_path)
    before = encoder.identity()
    encoder.encode(["a good game"])
    encoder.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=3)
    again = TransformerEncoder("bert", tmp_path, max_length=24, pooling="mean")
    assert encoder.identity() == before == again.identity()


def test_identity_changes_with_all_that_features_depend_on(tmp_path: Path) -> None:
    def identity(
        name: str = "bert", max_length: int = 24, pooling: str = "mean", device: str = "cpu", **saved: object
    ) -> str:
        save_bert(tmp_path, **saved)
        return str(
            TransformerEncoder(name, tmp_path, max_length=max_length, pooling=pooling).identity(device)
        )

    variants = [
        identity(),
        identity(name="other"),
        identity(max_length=23),
        identity(pooling="pooler"),
        identity(device="cuda"),  # bfloat16
        identity(seed=1),
        identity(words=[*WORDS[1:], WORDS[0]]),
        identity(layer_norm_eps=1e-3),
    ]
    assert len(set(variants)) == len(variants)
    assert identity() == variants[0]
    assert HashedEncoder(8).identity() != HashedEncoder(9).identity()


def test_changing_one_weight_in_memory_changes_the_identity(tmp_path: Path) -> None:
    encoder = build("gpt2", tmp_path)
    before = encoder.identity()
    with torch.no_grad():
        encoder.model.wte.weight[3, 5] += 1e-3
    assert encoder.identity() != before


def test_minilm_vectors_do_not_depend_on_padding() -> None:
    pytest.importorskip(MINILM_PACKAGE)
    encoder = resolve_encoder("all-MiniLM-L6-v2", max_length=32)
    assert isinstance(encoder, TransformerEncoder)
    texts = ["The cat sits on the mat.", "", "Interest rates rose " * 20]
    for text, vector in zip(texts, encoder.encode(texts), strict=True):
        torch.testing.assert_close(vector, expected(encoder, text), atol=1e-5, rtol=1e-4)
