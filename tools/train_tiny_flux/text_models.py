# SPDX-License-Identifier: Apache-2.0
"""CLIP's text model and T5's encoder in plain PyTorch, under the names of transformers' files.

Written out with plain products and softmax because T5's bias needs a gradient, which fused
attention kernels do not give reliably. Checked against transformers by check_pipeline.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from config import CLIP, T5


def linear(x, layer):
    """A linear layer in the type of x."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def split_heads(x, heads):
    """[B,S,H*d] to [B,H,S,d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Lookup(torch.autograd.Function):
    """Rows of a table; the gradient is a product with one-hot rows, free of sorting and atomics."""

    @staticmethod
    def forward(ctx, table, ids):
        ctx.save_for_backward(ids)
        ctx.rows = table.shape[0]
        return table[ids]

    @staticmethod
    def backward(ctx, grad):
        (ids,) = ctx.saved_tensors
        small = torch.bfloat16 if grad.is_cuda else torch.float32
        hot = (ids.reshape(-1, 1) == torch.arange(ctx.rows, device=ids.device)).to(small)
        return (hot.T @ grad.reshape(-1, grad.shape[-1]).to(small)).to(grad.dtype), None


class ClipAttention(nn.Module):
    def __init__(self):
        super().__init__()
        width = CLIP["hidden_size"]
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (split_heads(linear(x, p), CLIP["num_attention_heads"]) for p in layers)
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, -1e9).softmax(-1).to(x.dtype)
        return linear((weights @ v).transpose(1, 2).flatten(2), self.out_proj)


class ClipFeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(CLIP["hidden_size"], CLIP["intermediate_size"])
        self.fc2 = nn.Linear(CLIP["intermediate_size"], CLIP["hidden_size"])

    def forward(self, x):
        h = linear(x, self.fc1)
        return linear(h * torch.sigmoid(1.702 * h), self.fc2)


class ClipLayer(nn.Module):
    def __init__(self):
        super().__init__()
        width = CLIP["hidden_size"]
        self.self_attn, self.mlp = ClipAttention(), ClipFeedForward()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)

    def forward(self, x):
        x = x + self.self_attn(layer_norm(x, self.layer_norm1))
        return x + self.mlp(layer_norm(x, self.layer_norm2))


def layer_norm(x, norm):
    """LayerNorm with weight and bias in the type of x."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


class ClipText(nn.Module):
    """forward: ids [B,S] to the pooled vector [B,64], read at the first end-of-text."""

    def __init__(self):
        super().__init__()
        width = CLIP["hidden_size"]
        body = self.text_model = nn.Module()
        body.embeddings = nn.Module()
        body.embeddings.token_embedding = nn.Embedding(CLIP["vocab_size"], width)
        body.embeddings.position_embedding = nn.Embedding(CLIP["max_position_embeddings"], width)
        body.encoder = nn.Module()
        body.encoder.layers = nn.ModuleList([ClipLayer() for _ in range(CLIP["num_hidden_layers"])])
        body.final_layer_norm = nn.LayerNorm(width, eps=1e-5)
        nn.init.normal_(body.embeddings.token_embedding.weight, std=0.3)
        nn.init.normal_(body.embeddings.position_embedding.weight, std=0.1)

    def forward(self, ids, dtype=torch.float32):
        body = self.text_model
        places = body.embeddings.position_embedding.weight[: ids.shape[1]]
        x = (Lookup.apply(body.embeddings.token_embedding.weight, ids) + places).to(dtype)
        for layer in body.encoder.layers:
            x = layer(x)
        x = layer_norm(x, body.final_layer_norm)
        end = (ids == CLIP["eos_token_id"]).int().argmax(-1)
        here = torch.arange(ids.shape[1], device=ids.device) == end[:, None]
        return (x * here[:, :, None]).sum(1)


class RMS(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(T5["d_model"]))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


def buckets(length, device):
    """[L,L] relative-position bucket of (query, key), bidirectional, 32 buckets, largest distance 128."""
    at = torch.arange(length)
    delta = at[None, :] - at[:, None]
    far = delta.abs()
    large = 8 + (torch.log(far.float().clamp(min=1) / 8) / math.log(16) * 8).long()
    return (16 * (delta > 0) + torch.where(far < 8, far, large.clamp(max=15))).to(device)


class T5Attention(nn.Module):
    def __init__(self, first):
        super().__init__()
        inner = T5["num_heads"] * T5["d_kv"]
        self.q, self.k, self.v = (nn.Linear(T5["d_model"], inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, T5["d_model"], bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(32, T5["num_heads"])


class T5SelfAttention(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.SelfAttention, self.layer_norm = T5Attention(first), RMS()

    def forward(self, x, bias):
        a, n = self.SelfAttention, self.layer_norm(x)
        q, k, v = (split_heads(linear(n, p), T5["num_heads"]) for p in (a.q, a.k, a.v))
        weights = ((q @ k.transpose(-1, -2)).float() + bias).softmax(-1).to(x.dtype)
        return x + linear((weights @ v).transpose(1, 2).flatten(2), a.o)


class T5GatedFeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        dense = self.DenseReluDense = nn.Module()
        dense.wi_0 = nn.Linear(T5["d_model"], T5["d_ff"], bias=False)
        dense.wi_1 = nn.Linear(T5["d_model"], T5["d_ff"], bias=False)
        dense.wo = nn.Linear(T5["d_ff"], T5["d_model"], bias=False)
        self.layer_norm = RMS()

    def forward(self, x):
        d, n = self.DenseReluDense, self.layer_norm(x)
        return x + linear(F.gelu(linear(n, d.wi_0), approximate="tanh") * linear(n, d.wi_1), d.wo)


class T5Block(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.layer = nn.ModuleList([T5SelfAttention(first), T5GatedFeedForward()])

    def forward(self, x, bias):
        return self.layer[1](self.layer[0](x, bias))


class T5Encoder(nn.Module):
    """forward: ids [B,L] to states [B,L,128]; padding is attended to, as FLUX does."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(T5["vocab_size"], T5["d_model"])
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList([T5Block(i == 0) for i in range(T5["num_layers"])])
        self.encoder.final_layer_norm = RMS()
        self.tables = {}
        nn.init.normal_(self.shared.weight, std=1.0)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for block in self.encoder.block:
            nn.init.normal_(block.layer[0].SelfAttention.q.weight, std=(T5["d_model"] * T5["d_kv"]) ** -0.5)

    def forward(self, ids, dtype=torch.float32):
        length = ids.shape[1]
        key = (length, str(ids.device))
        if key not in self.tables:
            self.tables[key] = buckets(length, ids.device)
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = Lookup.apply(table.weight, self.tables[key]).permute(2, 0, 1)[None]
        x = Lookup.apply(self.shared.weight, ids).to(dtype)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)
