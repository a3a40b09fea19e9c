"""Write trained parameters in Hugging Face's layout: bfloat16 safetensors and two JSON files."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from model import Config, Llama
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
CHECKPOINT = HERE / "build" / "checkpoint.pt"
END_OF_TEXT = 0


def model_settings(config: Config) -> dict[str, Any]:
    """Return the contents of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(config),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def write_json(path: Path, settings: dict[str, Any]) -> None:
    """Replace a JSON file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def export(model: Llama) -> Path:
    """Write the model to this folder atomically, and return the file's path."""
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    path = HERE / "model.safetensors"
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(path)
    write_json(HERE / "config.json", model_settings(model.config))
    write_json(HERE / "generation_config.json", {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT})
    return path


def load(folder: Path = HERE) -> Llama:
    """Return the model in a folder, its bfloat16 weights converted to float32."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Llama(Config(**{field.name: settings[field.name] for field in fields(Config)}))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()


def main() -> None:
    """Export the latest checkpoint of a run that has not finished; training does so at its end."""
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    model = Llama(Config())
    model.load_state_dict(checkpoint["model"])
    path = export(model)
    print(f"{path.name}: step {checkpoint['step']}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
