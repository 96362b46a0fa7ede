"""LoRA: the base is shared and frozen, the adapter is peft's, and the engine samples what is trained."""

import json

import numpy as np
import peft
import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

import agentlightning as agl
from agentlightning.inference.attention import lm_logits, packed_hidden_states
from agentlightning.inference.engine import Engine
from agentlightning.inference.loading import load_model
from agentlightning.inference.sampling import SamplingParams
from agentlightning.learner.batch import Row
from agentlightning.learner.lora import (
    add_lora,
    is_lora,
    load_adapter,
    merge,
    merged_state_dict,
    restore_adapter,
    save_adapter,
    shared_copy,
)
from agentlightning.types import ConfigError, ModelError

from .conftest import make_model
from .parts import make_learner, make_rows, steps

Q0 = "model.layers.0.self_attn.q_proj"


def pointers(model):
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]


def adapter(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def randomised(model, seed=1):
    """The model with an adapter that does something: B starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in adapter(model).items():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


@torch.no_grad()
def logits(model):
    return lm_logits(model, packed_hidden_states(model, torch.arange(20) % 50, [0, 7, 20]))


@pytest.mark.parametrize("tied", [True, False])
def test_a_shared_copy_costs_no_weights_and_computes_the_same(tied):
    model = make_model(tie_word_embeddings=tied)
    copy = shared_copy(model)
    assert pointers(copy) == pointers(model)
    assert len(pointers(copy)) > 20
    assert {name for name, _ in copy.named_parameters()} == {name for name, _ in model.named_parameters()}
    assert (copy.get_output_embeddings().weight is copy.get_input_embeddings().weight) == tied
    assert torch.equal(logits(copy), logits(model))
    assert all(a is not b for a, b in zip(copy.modules(), model.modules(), strict=True))
    assert copy.config is not model.config


def test_what_is_written_into_one_copy_is_seen_by_the_other(model):
    copy = shared_copy(model)
    before = logits(model)
    with torch.no_grad():
        copy.model.norm.weight.mul_(2)
    assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), logits(copy))


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_starts_as_the_base_and_only_it_is_trained(tied):
    model = make_model(tie_word_embeddings=tied)
    kind, before, names = type(model), logits(model), {name for name, _ in model.named_parameters()}
    assert add_lora(model, rank=3, alpha=6, seed=0) is model
    assert is_lora(model)
    assert type(model) is kind
    assert torch.equal(logits(model), before)
    trained = adapter(model)
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven matrices each: the output layer has none
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert len(list(model.parameters())) == len(names) + len(trained)
    assert trained[f"{Q0}.lora_A.default.weight"].shape == (3, 32)
    assert trained[f"{Q0}.lora_B.default.weight"].shape == (32, 3)
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_the_seed_decides_the_adapter_and_the_global_state_is_left_alone(model):
    base = shared_copy(model)
    twin, other = shared_copy(base), shared_copy(base)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    add_lora(model, rank=2, alpha=4, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    add_lora(twin, rank=2, alpha=4, seed=7)
    add_lora(other, rank=2, alpha=4, seed=8)
    for name, p in adapter(model).items():
        assert torch.equal(p, adapter(twin)[name])
    name = f"{Q0}.lora_A.default.weight"
    assert not torch.equal(adapter(model)[name], adapter(other)[name])


@pytest.mark.parametrize(
    ("targets", "excluded", "found"),
    [
        (["q_proj", "v_proj"], None, {"q_proj", "v_proj"}),
        (r".*\.self_attn\.[qk]_proj", None, {"q_proj", "k_proj"}),
        ("all-linear", ["gate_proj", "up_proj", "down_proj"], {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("all-linear", r".*\.self_attn\..*", {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_targets_are_names_or_a_pattern(model, targets, excluded, found):
    add_lora(model, rank=2, alpha=4, target_modules=targets, exclude_modules=excluded, seed=0)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter(model)} == found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_the_embeddings_and_the_output_layer_take_no_adapter(tied, target):
    """Fused log-probs read the output layer's weight; an adapter there would be left out silently."""
    model = make_model(tie_word_embeddings=tied)
    with pytest.raises(ModelError, match="target_modules"):
        add_lora(model, rank=2, alpha=4, target_modules=["q_proj", target], seed=0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"rank": 0}, "lora_rank"), ({"alpha": 0}, "lora_alpha"), ({"target_modules": ["nowhere"]}, "target_modules")],
)
def test_what_cannot_be_is_refused_by_name(model, changes, field):
    with pytest.raises(ConfigError, match=field):
        add_lora(model, **{"rank": 2, "alpha": 4, "seed": 0, **changes})


def test_a_second_adapter_in_one_tree_is_refused(model):
    add_lora(model, rank=2, alpha=4, seed=0)
    with pytest.raises(ModelError, match="shared_copy"):
        add_lora(model, rank=2, alpha=4, seed=0)


@pytest.mark.parametrize(("rank", "alpha"), [(2, 16), (4, 16), (3, 1.5)])
def test_alpha_over_rank_scales_the_product(model, rank, alpha):
    """y = W x + alpha / rank * B A x, from the formula: padding the rank with alpha kept would change it."""
    weight = model.get_submodule(Q0).weight.detach().clone()
    bias = model.get_submodule(Q0).bias.detach()
    randomised(add_lora(model, rank=rank, alpha=alpha, seed=0))
    a, b = (adapter(model)[f"{Q0}.lora_{which}.default.weight"].detach() for which in "AB")
    x = torch.randn(5, 32, dtype=torch.float64)
    expected = x @ weight.T + bias + (alpha / rank) * (x @ a.T @ b.T)
    torch.testing.assert_close(model.get_submodule(Q0)(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        merged_state_dict(model)[f"{Q0}.weight"], weight + (alpha / rank) * (b @ a), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("tied", [True, False])
def test_merging_keeps_the_function_the_names_and_the_base(tied):
    model = make_model(tie_word_embeddings=tied)
    base = shared_copy(model)
    names, before = list(base.state_dict()), logits(base)
    randomised(add_lora(model, rank=3, alpha=6, seed=0))
    wanted = logits(model)
    assert (wanted - before).abs().max() > 0.1
    plain = merge(model)
    assert not is_lora(plain)
    assert list(plain.state_dict()) == names
    torch.testing.assert_close(logits(plain), wanted, rtol=0, atol=1e-6)
    assert torch.equal(logits(model), wanted)
    assert torch.equal(logits(base), before)
    assert plain.model.embed_tokens.weight is model.model.embed_tokens.weight
    fresh = make_model(seed=3, tie_word_embeddings=tied)
    fresh.load_state_dict(merged_state_dict(model))
    assert torch.equal(logits(fresh), logits(plain))


def test_fused_experts_are_adapted_and_merged_too(tmp_path):
    """peft wraps them twice, and their names on disk are others than in memory."""

    def mixture():
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
        config = MixtralConfig(vocab_size=50, **shape, **experts, attn_implementation="agl")
        return MixtralForCausalLM(config).eval()

    model = mixture()
    before = logits(model)
    randomised(add_lora(model, rank=2, alpha=4, seed=0))
    assert any("experts" in name for name in adapter(model))
    assert (logits(model) - before).abs().max() > 0.1
    torch.testing.assert_close(logits(merge(model)), logits(model), rtol=0, atol=2e-5)  # float32
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(mixture(), tmp_path)), logits(model))


def test_peft_loads_what_we_save(model, tmp_path):
    base = make_model()
    randomised(add_lora(model, rank=3, alpha=5, target_modules=["q_proj", "down_proj"], seed=0))
    save_adapter(model, tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (stored["r"], stored["lora_alpha"], stored["peft_type"]) == (3, 5, "LORA")
    assert stored["target_modules"] == ["down_proj", "q_proj"]
    wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(wrapped(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


def test_we_load_what_peft_saves(model, tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"], lora_dropout=0.1, use_rslora=True)
    wrapped = peft.get_peft_model(make_model(), config).eval()
    randomised(wrapped)
    wrapped.save_pretrained(str(tmp_path))
    assert load_adapter(model, tmp_path) is model
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(wrapped(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
        model.train()
        assert torch.equal(wrapped(ids, use_cache=False).logits, model(ids, use_cache=False).logits), "dropout is off"
    assert all("lora_" in name for name in adapter(model))
    assert len(adapter(model)) == 2 * 2 * 2


def test_an_adapter_that_cannot_be_loaded_is_one_error(tmp_path):
    with pytest.raises(ModelError, match=r"holds no `adapter_config.json`"):
        load_adapter(make_model(), tmp_path / "nowhere")
    save_adapter(randomised(add_lora(make_model(), rank=3, alpha=5, seed=0)), tmp_path / "fits")
    with pytest.raises(ModelError, match="does not fit this model"):
        load_adapter(make_model(hidden_size=64), tmp_path / "fits")
    with pytest.raises(ModelError, match=r"`r` 3, this run 2"):
        restore_adapter(add_lora(make_model(), rank=2, alpha=5, seed=0), tmp_path / "fits")
    with pytest.raises(ModelError, match=r"`lora_alpha` 5, this run 6"):
        restore_adapter(add_lora(make_model(), rank=3, alpha=6, seed=0), tmp_path / "fits")
    with pytest.raises(ModelError, match="other targets"):
        restore_adapter(add_lora(make_model(), rank=3, alpha=5, target_modules=["q_proj"], seed=0), tmp_path / "fits")
    weights = tmp_path / "fits" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_adapter(make_model(), tmp_path / "fits")
    peft.get_peft_model(make_model(), peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(str(tmp_path / "ia3"))
    with pytest.raises(ModelError, match="only LoRA"):
        load_adapter(make_model(), tmp_path / "ia3")
    whole = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft.get_peft_model(make_model(), whole).save_pretrained(str(tmp_path / "whole"))
    with pytest.raises(ModelError, match="modules_to_save"):
        load_adapter(make_model(), tmp_path / "whole")


def test_the_base_stays_the_reference_while_the_adapter_learns(model):
    reference = shared_copy(model)
    frozen = {name: p.detach().clone() for name, p in reference.named_parameters()}
    learner = make_learner(add_lora(model, rank=3, alpha=6, seed=0))
    rows = make_rows()
    before = logits(reference)
    old = learner.logprobs(rows)
    steps(learner, 3)
    assert torch.equal(logits(reference), before)
    assert max(np.abs(a - b).max() for a, b in zip(old, learner.logprobs(rows), strict=True)) > 0.05
    for name, p in reference.named_parameters():
        assert torch.equal(p, frozen[name])
        assert p.grad is None


def test_gradients_are_those_of_the_merged_matrix(model):
    """For W' = W + s B A: dA = s B^T dW', dB = s dW' A^T (float64, dW' from an ordinary full model)."""
    randomised(add_lora(model, rank=3, alpha=6, seed=0))
    plain = merge(model)
    matrix = plain.get_submodule(Q0).weight.requires_grad_()
    ids = torch.arange(12)

    def loss(of):
        return torch.log_softmax(lm_logits(of, packed_hidden_states(of, ids, [0, 5, 12])), -1)[:, 3].sum()

    (whole,) = torch.autograd.grad(loss(plain), [matrix])
    a, b = (adapter(model)[f"{Q0}.lora_{which}.default.weight"] for which in "AB")
    got_a, got_b = torch.autograd.grad(loss(model), [a, b])
    # Qwen2 normalises in float32, so float64 holds to its rounding.
    torch.testing.assert_close(got_a, 2 * b.detach().T @ whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_b, 2 * whole @ a.detach().T, rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_checkpointing():
    """The embeddings are frozen: no input of a recomputed layer asks for a gradient."""
    after = {}
    for checkpointing in (False, True):
        model = randomised(add_lora(make_model(), rank=3, alpha=6, seed=0))
        begin = {name: p.detach().clone() for name, p in adapter(model).items()}
        learner = make_learner(model, gradient_checkpointing=checkpointing)
        norms = [step["actor/grad_norm"] for step in steps(learner, 3)]
        assert min(norms) > 0.1
        after[checkpointing] = {name: p.detach() for name, p in adapter(model).items()}
        moved = [name for name, p in after[checkpointing].items() if not torch.equal(p, begin[name])]
        assert len(moved) == len(begin), "every matrix of every layer"
    for name, p in after[False].items():
        torch.testing.assert_close(after[True][name], p, rtol=1e-9, atol=1e-12)


def test_the_engine_samples_with_the_log_probs_of_the_learner(tmp_path):
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}
    loaded = load_model(agl.tiny_model(tmp_path / "tiny", ["a few words"], **shape))
    learner = make_learner(randomised(add_lora(loaded.model, rank=3, alpha=6, seed=0)))
    engine = Engine(loaded.model, loaded.tokenizer, max_slots=4)
    engine.start()
    seen = []
    try:
        for _ in range(2):
            params = [SamplingParams(max_tokens=12, seed=seed) for seed in range(6)]
            futures = [engine.submit([3 + at, 7, 11 * at + 2], one) for at, one in enumerate(params)]
            seen.append([future.result(timeout=60) for future in futures])
            rows = [
                Row(
                    np.concatenate([got.prompt_ids, got.token_ids]),
                    np.arange(len(got.prompt_ids) + len(got.token_ids)) >= len(got.prompt_ids),
                    {},
                )
                for got in seen[-1]
            ]
            for got, made in zip(seen[-1], learner.logprobs(rows), strict=True):
                np.testing.assert_allclose(got.logprobs, made, atol=1e-5, rtol=0)
            with engine.updating():
                steps(learner, 2)
    finally:
        engine.stop()
    assert any(not np.array_equal(a.token_ids, b.token_ids) for a, b in zip(*seen, strict=True)), "weights moved"


def test_the_adapter_of_a_half_precision_model_is_in_float32():
    model = add_lora(make_model().bfloat16(), rank=2, alpha=4, seed=0)
    assert {p.dtype for p in adapter(model).values()} == {torch.float32}
    assert model.dtype == torch.bfloat16
    assert logits(randomised(model)).dtype == torch.bfloat16
    assert {p.dtype for p in merged_state_dict(model).values()} == {torch.bfloat16}
