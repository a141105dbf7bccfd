"""Runs one runtime in the environment that this Python belongs to. `peers.py` starts it.

    python peer.py score RUNTIME DTYPE FOLDER THREADS [MODEL_FILE]   requests on standard input, one JSON a line
    python peer.py export FOLDER FILE                                the checkpoint as ONNX
    python peer.py gguf FOLDER FILE                                  a BERT cross-encoder as GGUF

The first line that `score` prints has the versions, each further line the scores and milliseconds of a request.
"""

import contextlib
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path

from runtimes import RUNTIMES, export


def score(runtime: str, dtype: str, folder: str, threads: str, model_file: str = "") -> None:
    # Runtimes print progress and warnings; replies go to the real standard output.
    out, kind = sys.stdout, RUNTIMES[runtime]
    with contextlib.redirect_stdout(sys.stderr):
        peer = kind(Path(folder), dtype, int(threads), Path(model_file) if model_file else None)
        versions = {name: importlib.metadata.version(name) for name in kind.packages}
        print(json.dumps({"versions": versions, "python": platform.python_version()}), file=out, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            started = time.perf_counter()
            scores = peer.scores(request["query"], request["documents"], request["batch"])
            elapsed = (time.perf_counter() - started) * 1e3
            print(json.dumps({"milliseconds": elapsed, "scores": scores}), file=out, flush=True)


def write_onnx(folder: str, file: str) -> None:
    found = export(Path(folder), Path(file).parent)
    if found != Path(file):
        found.rename(file)


# llama.cpp's names for the tensors of a BERT layer.
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
OTHERS = {
    "bert.embeddings.word_embeddings": "token_embd",
    "bert.embeddings.position_embeddings": "position_embd",
    "bert.embeddings.token_type_embeddings": "token_types",
    "bert.embeddings.LayerNorm": "token_embd_norm",
    "bert.pooler.dense": "cls",
    "classifier": "cls.output",
}


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a tensor; None for one that it does not read."""
    module, _, part = name.rpartition(".")
    if module in OTHERS:
        return f"{OTHERS[module]}.{part}"
    layer = module.removeprefix("bert.encoder.layer.")
    number, _, inner = layer.partition(".")
    return f"blk.{number}.{LAYER[inner]}.{part}" if layer != module and inner in LAYER else None


def write_gguf(folder: str, file: str) -> None:
    import gguf
    import numpy
    from safetensors.numpy import load_file

    config = json.loads((Path(folder) / "config.json").read_text())
    if config["model_type"] != "bert":
        sys.exit(f"only BERT cross-encoders are converted to GGUF, not {config['model_type']}; give a file with --gguf")
    writer = gguf.GGUFWriter(file, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    vocabulary = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.get)
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    plain = [word if word in special else word[2:] if word.startswith("##") else f"▁{word}" for word in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(plain)
    writer.add_token_types([gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words])
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    for name, tensor in load_file(Path(folder) / "model.safetensors").items():
        if known := gguf_name(name):
            writer.add_tensor(known, tensor.astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"score": score, "export": write_onnx, "gguf": write_gguf}[sys.argv[1]](*sys.argv[2:])
