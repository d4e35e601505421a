"""Makes the files beside it: PyTorch's own attention layers, their inputs and what they answer.

    python3 -m venv torch && torch/bin/pip install torch==2.9.0 numpy safetensors
    torch/bin/python crates/attn/src/nn/tests/torch/make.py

A file holds the layer's state as `model.NAME`, its inputs as `in.NAME` and its answers as `out.NAME`. Masks are True where hidden, as
PyTorch has them, and lie as u8.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
BATCH, QUERIES, KEYS, WIDTH, HEADS, INNER = 2, 5, 7, 12, 3, 20


def shaken(model):
    """Every parameter drawn anew, so that biases and norms matter too."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.6, 0.6)
    return model.eval()


def draw(*shape):
    return torch.empty(shape).uniform_(-1.0, 1.0)


def padding(length):
    mask = torch.zeros(BATCH, length, dtype=torch.bool)
    mask[1, length - 2 :] = True
    return mask


def later(length):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def save(name, model, inputs, outputs):
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"in.{key}": value.to(torch.uint8) if value.dtype == torch.bool else value for key, value in inputs.items()}
    tensors |= {f"out.{key}": value for key, value in outputs.items()}
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, HERE / f"{name}.safetensors")


def attention(name, **widths):
    model = shaken(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **widths))
    key_width, value_width = widths.get("kdim", WIDTH), widths.get("vdim", WIDTH)
    inputs = {
        "query": draw(BATCH, QUERIES, WIDTH),
        "key": draw(BATCH, KEYS, key_width),
        "value": draw(BATCH, KEYS, value_width),
        "padding": padding(KEYS),
    }
    with torch.no_grad():
        out, weights = model(
            inputs["query"],
            inputs["key"],
            inputs["value"],
            key_padding_mask=inputs["padding"],
            average_attn_weights=False,
        )
    save(name, model, inputs, {"out": out, "weights": weights})


def encoder(name, layers=None, **options):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True, **options)
    norm = nn.LayerNorm(WIDTH) if options.get("norm_first") else None
    model = shaken(layer if layers is None else nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False))
    inputs = {"hidden": draw(BATCH, QUERIES, WIDTH), "padding": padding(QUERIES)}
    # With gradients on, PyTorch takes its plain path.
    out = model(inputs["hidden"], src_key_padding_mask=inputs["padding"])
    save(name, model, inputs, {"out": out})


def decoder(name, layers=None, **options):
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, batch_first=True, **options)
    norm = nn.LayerNorm(WIDTH) if options.get("norm_first") else None
    model = shaken(layer if layers is None else nn.TransformerDecoder(layer, layers, norm))
    inputs = {"hidden": draw(BATCH, QUERIES, WIDTH), "memory": draw(BATCH, KEYS, WIDTH), "padding": padding(KEYS)}
    out = model(
        inputs["hidden"], inputs["memory"], tgt_mask=later(QUERIES), memory_key_padding_mask=inputs["padding"]
    )
    save(name, model, inputs, {"out": out})


if __name__ == "__main__":
    torch.manual_seed(20)
    attention("attention")
    attention("attention-widths", kdim=8, vdim=10)
    attention("attention-no-bias", bias=False)
    encoder("encoder-layer-post-relu")
    encoder("encoder-layer-pre-gelu", norm_first=True, activation="gelu")
    encoder("encoder", layers=2, norm_first=True, activation="gelu")
    decoder("decoder-layer-post-relu")
    decoder("decoder-layer-pre-gelu", norm_first=True, activation="gelu")
    decoder("decoder", layers=2, norm_first=True, activation="gelu")
