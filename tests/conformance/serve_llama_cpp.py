"""Serve a small Llama checkpoint with llama-cpp-python's server, a foreign server to run the kit against.

    python tests/conformance/serve_llama_cpp.py FOLDER [PORT]      # the model's name is the folder's name

Needs `llama-cpp-python[server]` and `gguf`. The folder is a Hugging Face checkpoint with a SentencePiece vocabulary in
tokenizer.json (the kind of Llama 2), such as Karpathy's stories260K. It is converted into a temporary folder.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
from safetensors.numpy import load_file

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""llama.cpp's token types."""

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Names of a layer's tensors: Hugging Face's and llama.cpp's."""


def main(folder, port="8080"):
    """Convert the checkpoint and serve it until a signal arrives."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server below ends as well
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.gguf"
        convert(Path(folder), path)
        command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--model_alias", Path(folder).name]
        options = ["--port", port, "--n_ctx", "512", "--n_threads", "2", "--logits_all", "true", "--verbose", "false"]
        subprocess.run([*command, *options], check=False)


def convert(folder, path):
    """Write the checkpoint as GGUF in float32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    add_config(writer, config)
    add_vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()), config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(folder / "model.safetensors").items():
        rotated = next((heads[part] for part in heads if part in name), None)
        writer.add_tensor(new_name(name), tensor if rotated is None else interleaved(tensor, rotated))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_config(writer, config):
    """Write the hyperparameters."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_vocabulary(writer, tokenizer, config):
    """Write the pieces, scores that order merges like tokenizer.json, types, and the special tokens."""
    model = tokenizer["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    rank = {left + right: number for number, (left, right) in enumerate(merges)}
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.encode() for piece in pieces])
    writer.add_token_scores([-float(rank.get(piece, 1e6)) for piece in pieces])
    writer.add_token_types([kind(piece) for piece in pieces])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(model["vocab"]["<unk>"])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)


def kind(piece):
    """Return the type of a piece."""
    if piece == "<unk>":
        return UNKNOWN
    if piece in ("<s>", "</s>"):
        return CONTROL
    return BYTE if piece.startswith("<0x") else NORMAL


def new_name(name):
    """Return llama.cpp's name of a tensor."""
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outer:
        return outer[name]
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleaved(tensor, num_heads):
    """Return the rows of a query or key projection in llama.cpp's order, which alternates the halves of each head."""
    rows, columns = tensor.shape
    halves = tensor.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).copy()


if __name__ == "__main__":
    main(*sys.argv[1:])
