"""The model and its pre-training: against a padded twin, and for what must hold of any run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from baselines.common.config import read_config
from baselines.mudok.config import MudokConfig
from baselines.mudok.model import MudokModel
from baselines.mudok.sequences import Packed, Sequences
from baselines.mudok.train import PretrainingLoss, pretrain_mudok
from kpi_bench import Context
from kpi_bench.errors import SubmissionError

SMALL = MudokConfig(
    slots=4, hidden=16, layers=2, heads=2, ffn=24, epochs=2, batch_size=8, lr=1e-2, text_dim=6, dropout=0.1
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences_of(rows: list[list[tuple[int, int]]], n_relations: int) -> Sequences:
    """Row e: the (value, relation) attributes of entity e."""
    flat = [pair for row in rows for pair in row]
    return Sequences(
        np.cumsum([0] + [len(row) for row in rows]),
        np.array([v for v, _ in flat], dtype=np.int32),
        np.array([r for _, r in flat], dtype=np.int32),
        n_relations,
    )


def random_rows(n_items: int, n_values: int, seed: int = 0) -> list[list[tuple[int, int]]]:
    """Items with 1 to 3 attributes, then values without any."""
    rng = np.random.default_rng(seed)
    rows = [
        [(n_items + int(v), int(v) % 3) for v in rng.choice(n_values, rng.integers(1, 4), replace=False)]
        for _ in range(n_items)
    ]
    return rows + [[]] * n_values


def make(
    config: MudokConfig = SMALL, n_items: int = 21, n_values: int = 9, seed: int = 0
) -> tuple[MudokModel, Sequences]:
    sequences = sequences_of(random_rows(n_items, n_values), 3)
    text = torch.randn(n_items + n_values, config.text_dim, generator=generator(9))
    return MudokModel(config, text, 3, generator(seed)), sequences


def context(seed: int = 1, notes: dict[str, Any] | None = None) -> Context:
    def report(kind: str, **values: Any) -> None:
        if notes is not None and kind == "note":
            notes[values["key"]] = values["value"]

    return Context(seed=seed, device="cpu", scratch=Path("/nonexistent"), graphs={}, report=report)


def fit(
    model: MudokModel, sequences: Sequences, config: MudokConfig = SMALL, seed: int = 1
) -> dict[str, float]:
    notes: dict[str, float] = {}
    pretrain_mudok(model, sequences, config, context(seed, notes), description="test")
    return notes


def literal_inputs(model: MudokModel, tokens: Tensor, relations: Tensor) -> Tensor:
    """x of each token, one after the other."""
    rows = []
    for token, relation in zip(tokens.tolist(), relations.tolist(), strict=True):
        text = model.text_projection.weight @ model.text[token] + model.text_projection.bias
        kind = model.type_embedding.weight[0 if relation == 0 else 1]
        x = text + model.relation_embedding.weight[relation] * (relation > 0) + kind
        x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-12)
        rows.append(x * model.input_norm.weight + model.input_norm.bias)
    return torch.stack(rows)


def literal_losses(model: MudokModel, packed: Packed, config: MudokConfig) -> tuple[Tensor, Tensor]:
    """Both losses without dropout, sequence by sequence through transformers' own encoder."""
    x = literal_inputs(model, torch.from_numpy(packed.tokens), torch.from_numpy(packed.relations))
    lengths = [length for length, count in packed.groups for _ in range(count)]
    states = [model.encoder.bert.encoder(part[None]).last_hidden_state for part in x.split(lengths)]
    z = functional.normalize(torch.cat([model.encoder.bert.pooler(s) for s in states]), dim=1)
    targets = torch.arange(len(z))
    con = functional.cross_entropy(z @ z.T / config.temperature, targets)
    relations = torch.from_numpy(packed.relations).split(lengths)
    if config.variant == "paper":
        triples = [
            (model.knowledge(s[0, 0]), model.relation_embedding.weight[r[1]], model.knowledge(s[0, 1]))
            for s, r in zip(states, relations, strict=True)
        ]
    else:
        triples = [
            (model.knowledge(s[0, 0]), s[0, 1], model.knowledge(s[0, 2])) for s in states if s.shape[1] > 2
        ]
    h, r, t = (torch.stack(part) for part in zip(*triples, strict=True))
    return con, functional.cross_entropy((h * r) @ t.T, targets[: len(h)])


def test_inputs_are_text_relation_and_type() -> None:
    model, sequences = make()
    with torch.no_grad():
        model.input_norm.weight.add_(torch.randn(16, generator=generator(1)))
        model.input_norm.bias.add_(1.5)
    packed = sequences.pack(np.array([3, 3, 25, 0]))
    tokens, relations = torch.from_numpy(packed.tokens), torch.from_numpy(packed.relations)
    torch.testing.assert_close(
        model.inputs(tokens, relations), literal_inputs(model, tokens, relations), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("weights", [(1.0, 0.1), (0.5, 0.0), (0.0, 2.0)])
def test_loss_and_gradients_equal_the_padless_definition(variant: str, weights: tuple[float, float]) -> None:
    config = replace(
        SMALL, dropout=0.0, variant=variant, contrastive_weight=weights[0], knowledge_weight=weights[1]
    )
    model, sequences = make(config)
    model.train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "weight" in name and "orm" not in name:
                p.mul_(10)
    packed = sequences.pack(sequences.heads, rng=np.random.default_rng(3))
    ours = PretrainingLoss(model, config)
    loss = ours(packed)
    con, kg = literal_losses(model, packed, config)
    theirs = weights[0] * con + weights[1] * kg
    torch.testing.assert_close(loss, theirs, rtol=1e-4, atol=1e-5)
    named = {"contrastive": con.item(), "knowledge": kg.item()}
    wanted = {name: named[name] for name, weight in zip(named, weights, strict=True) if weight}
    assert ours.means() == pytest.approx(wanted, rel=1e-4)
    parameters = list(model.parameters())
    a, b = (
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (loss, theirs)
    )
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_masks_reach_the_losses() -> None:
    """Items 0 and 1 are one to the encoder; items 0, 1 and 2 have value 4."""
    rows: list[list[tuple[int, int]]] = [[(4, 0)], [(4, 0)], [(4, 0), (5, 1)], [(5, 1)], [], []]
    sequences = sequences_of(rows, 2)
    text = torch.randn(6, 6, generator=generator(2))
    text[1] = text[0]
    config = replace(SMALL, dropout=0.0, mask_false_negatives=True)
    model = MudokModel(config, text, 2, generator())
    packed = sequences.pack(np.arange(4))
    assert packed.order.tolist() == [0, 1, 3, 2]
    masked = PretrainingLoss(model, config)
    masked(packed)
    hidden = model.encoder(model.packed_inputs(packed), [(2, 3, 2), (3, 1, 2)]).view(4, 2, 16)
    z = functional.normalize(model.encoder.pool(hidden[:, 0]), dim=1)
    h, t = model.knowledge(hidden).unbind(1)
    r = model.relation_embedding(torch.tensor([1, 1, 2, 1]))
    # Rows in packed order: items 0, 1, 3, 2, whose tails are 4, 4, 5, 4.
    known = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    own = torch.eye(4, dtype=torch.bool)
    for name, score, mask in (("contrastive", z @ z.T / 0.1, same), ("knowledge", (h * r) @ t.T, known)):
        cut = score.masked_fill(mask & ~own, float("-inf"))
        wanted = functional.cross_entropy(cut, torch.arange(4)).item()
        assert masked.means()[name] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_code_variant_reads_the_first_two_values_and_skips_items_with_one() -> None:
    config = replace(SMALL, dropout=0.0, variant="code", contrastive_weight=0.0)
    rows: list[list[tuple[int, int]]] = [[(5, 0), (6, 1), (7, 2)], [(7, 0), (5, 1)], [(6, 0)], [(5, 2)]]
    sequences = sequences_of(rows + [[]] * 4, 3)
    text = torch.randn(8, 6, generator=generator(3))
    model = MudokModel(config, text, 3, generator())
    whole, fewer = PretrainingLoss(model, config), PretrainingLoss(model, config)
    loss = whole(sequences.pack(np.arange(4)))
    torch.testing.assert_close(loss, fewer(sequences.pack(np.arange(2))))
    single = PretrainingLoss(model, config)(sequences.pack(np.array([2, 3])))
    assert single.item() == 0
    single.backward()


def test_relation_zero_stays_a_zero_vector() -> None:
    model, sequences = make()
    assert not model.relation_embedding.weight[0].any()
    before = model.relation_embedding.weight[1:].clone()
    fit(model, sequences)
    assert not model.relation_embedding.weight[0].any()
    assert not torch.equal(before, model.relation_embedding.weight[1:])


def test_text_stays_what_it_was_and_is_not_saved(tmp_path: Path) -> None:
    text = torch.randn(30, SMALL.text_dim, generator=generator(9))
    copy = text.clone()
    model = MudokModel(SMALL, text, 3, generator())
    _, sequences = make()
    # Trap 14: the published code's table is noise after construction.
    assert model.text.data_ptr() == text.data_ptr()
    assert torch.equal(model.text, copy)
    fit(model.to(torch.device("cpu")), sequences)
    assert torch.equal(model.text, copy)
    assert not model.text.requires_grad
    assert not any("text" in name for name, _ in model.named_buffers())
    model.save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in list(file.keys())}
    assert shapes == {name: list(p.shape) for name, p in model.named_parameters()}
    assert not any("embeddings" in name or name == "text" for name in shapes)
    assert [30, SMALL.text_dim] not in shapes.values()


def test_text_decides_the_vectors() -> None:
    model, sequences = make()
    z = model.vectors(sequences, np.arange(5))
    model.text = torch.randn(model.text.shape, generator=generator(77))
    assert not torch.allclose(z, model.vectors(sequences, np.arange(5)))


def test_saved_and_loaded_models_give_the_same_vectors(tmp_path: Path) -> None:
    model, sequences = make()
    fit(model, sequences)
    model.save(tmp_path / "m.safetensors")
    again = MudokModel.load(tmp_path / "m.safetensors", SMALL, model.text, 3)
    assert not again.training
    entities = np.array([4, 29, 0, 4, 17])
    assert torch.equal(model.vectors(sequences, entities), again.vectors(sequences, entities))


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    model, _ = make()
    path = tmp_path / "m.safetensors"
    with pytest.raises(SubmissionError, match="no such checkpoint"):
        MudokModel.load(path, SMALL, model.text, 3)
    model.save(path)
    with pytest.raises(SubmissionError, match="does not hold a MuDoK model of these sizes"):
        MudokModel.load(path, SMALL, model.text, 4)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SubmissionError, match=r"m\.safetensors does not hold"):
        MudokModel.load(path, SMALL, model.text, 3)


def test_vectors_do_not_depend_on_batches_or_company() -> None:
    model, sequences = make()
    model.train()
    entities = np.random.default_rng(0).permutation(30)
    whole = model.vectors(sequences, entities)
    assert model.training
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    torch.testing.assert_close(whole, model.vectors(sequences, entities, batch=4), rtol=1e-4, atol=1e-6)
    for row, entity in zip(whole, entities, strict=True):
        alone = model.vectors(sequences, np.array([entity]))[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-6)
    assert model.vectors(sequences, entities[:0]).shape == (0, 16)


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[Tensor]:
        model, sequences = make()
        state = torch.random.get_rng_state()
        fit(model, sequences, seed=seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return [p.detach().clone() for p in model.parameters()]

    one = weights(1)
    torch.rand(100)
    same, other = weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_pretraining_learns(variant: str) -> None:
    """Four kinds of items with the kind's three values each; texts say nothing."""
    n, kinds = 64, 4
    rows = [[(n + 3 * (e % kinds) + k, k) for k in range(3)] for e in range(n)] + [[]] * (3 * kinds)
    sequences = sequences_of(rows, 3)
    text = torch.randn(len(rows), 6, generator=generator(4))
    config = replace(SMALL, variant=variant, epochs=60, batch_size=64, knowledge_weight=1.0, lr=1e-2)
    model = MudokModel(config, text, 3, generator())

    def closeness() -> float:
        z = functional.normalize(model.vectors(sequences, np.arange(n)), dim=1)
        kind = torch.arange(n) % kinds
        alike = kind[:, None] == kind
        cosines = z @ z.T
        own = torch.eye(n, dtype=torch.bool)
        return float(cosines[alike & ~own].mean() - cosines[~alike].mean())

    before = closeness()
    first = fit(model, sequences, replace(config, epochs=1))
    last = fit(model, sequences, config)
    assert set(last) == {"contrastive_loss", "knowledge_loss"}
    assert all(last[name] < 0.8 * first[name] for name in last), (first, last)
    assert closeness() > before + 0.1


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_heads_with_one_triple_each_train(variant: str) -> None:
    sequences = sequences_of([[(8 + e % 2, 0)] for e in range(8)] + [[], []], 1)
    text = torch.randn(10, 6, generator=generator(4))
    config = replace(SMALL, variant=variant, mask_false_negatives=True)
    model = MudokModel(config, text, 1, generator())
    before = model.vectors(sequences, np.arange(10))
    notes = fit(model, sequences, config)
    assert not torch.equal(before, model.vectors(sequences, np.arange(10)))
    assert (notes["knowledge_loss"] == 0) == (variant == "code")


def test_one_model_over_several_graphs() -> None:
    parts = [sequences_of(random_rows(12, 5, seed), 3) for seed in (1, 2)]
    joint = Sequences.joined(parts)
    text = torch.randn(34, 6, generator=generator(4))
    model = MudokModel(SMALL, text, joint.n_relations, generator())
    assert model.relation_embedding.num_embeddings == 7
    fit(model, joint)
    both = model.vectors(joint, np.arange(34))
    # A KG served alone: its own entities and text, its relations where the joint model has them.
    own = replace(parts[1], relations=parts[1].relations + np.int32(3), n_relations=6)
    model.text = text[17:]
    torch.testing.assert_close(model.vectors(own, np.arange(17)), both[17:], rtol=1e-4, atol=1e-6)


def test_every_head_is_seen_once_an_epoch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    plain = PretrainingLoss.__call__

    def spy(self: PretrainingLoss, packed: Packed) -> Tensor:
        seen.append(packed.tokens[packed.relations == 0].tolist())
        return plain(self, packed)

    monkeypatch.setattr(PretrainingLoss, "__call__", spy)
    model, sequences = make()
    # 21 heads in batches of 5: the last one would be alone.
    fit(model, sequences, replace(SMALL, batch_size=5))
    assert [len(batch) for batch in seen] == [5, 5, 5, 5] * 2
    epochs = [[item for batch in part for item in batch] for part in (seen[:4], seen[4:])]
    assert all(len(set(epoch)) == 20 and set(epoch) <= set(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_no_epochs_leaves_the_random_model() -> None:
    model, sequences = make()
    before = [p.detach().clone() for p in model.parameters()]
    config = replace(SMALL, epochs=0, contrastive_weight=0.0, knowledge_weight=0.0)
    assert fit(model, sequences, config) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_cannot_train_is_refused() -> None:
    model, sequences = make()
    with pytest.raises(SubmissionError, match="both 0"):
        fit(model, sequences, replace(SMALL, contrastive_weight=0.0, knowledge_weight=0.0))
    with pytest.raises(SubmissionError, match="30 rows for 2 entities"):
        fit(model, sequences_of([[(1, 0)], []], 3))
    lonely = MudokModel(SMALL, torch.randn(2, 6), 3, generator())
    with pytest.raises(SubmissionError, match="1 entities have a triple"):
        fit(lonely, sequences_of([[(1, 0)], []], 3))
    single = MudokModel(SMALL, torch.randn(3, 6), 3, generator())
    with pytest.raises(SubmissionError, match="no head has two triples"):
        fit(
            single,
            sequences_of([[(2, 0)], [(2, 0)], []], 3),
            replace(SMALL, variant="code", contrastive_weight=0.0),
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variant", "published"),
        ("scope", "all"),
        ("text", ""),
        ("text_pooling", "max"),
        ("slots", 1),
        ("heads", 3),
        ("layers", 0),
        ("dropout", 1.0),
        ("temperature", 0.0),
        ("lr", float("nan")),
        ("epochs", -1),
        ("batch_size", 1),
        ("refresh", 0),
        ("knowledge_weight", -0.1),
    ],
)
def test_invalid_parameters_are_named(name: str, value: object) -> None:
    field = "hidden" if name == "heads" else name
    with pytest.raises(SubmissionError, match=f"^mudok_{field}"):
        read_config(MudokConfig, {f"mudok_{name}": value}, "mudok_")


def test_code_variant_needs_three_slots() -> None:
    with pytest.raises(SubmissionError, match=r"^slots = 2"):
        MudokConfig(variant="code", slots=2)
    assert MudokConfig(variant="code", slots=2, knowledge_weight=0.0).slots == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler for a CPU")
def test_compiled_pretraining_is_that_of_the_plain_encoder() -> None:
    config = replace(SMALL, dropout=0.0, epochs=1)
    (plain, sequences), (compiled, _) = make(config), make(config)
    fit(plain, sequences, config)
    fit(compiled, sequences, replace(config, compile=True))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(compiled.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)
