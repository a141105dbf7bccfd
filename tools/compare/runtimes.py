"""The runtimes that cross-encoders are compared on. Each class loads one checkpoint and scores a query's documents.

A class imports its packages when it is made, so that each can run in an environment of its own.
"""

import asyncio
import tempfile
from pathlib import Path


def pairs_by_length(folder: Path, query: str, documents: list[str]):
    """A function that tokenizes the pairs, and yields padded batches with the places of their documents."""
    import numpy
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def batches(size: int):
        encoded = tokenizer.encode_batch([(query, document) for document in documents])
        order = sorted(range(len(encoded)), key=lambda at: len(encoded[at].ids))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            width = max(len(encoded[at].ids) for at in part)
            fill = lambda values: values + [0] * (width - len(values))  # noqa: E731
            rows = {
                "input_ids": [fill(encoded[at].ids) for at in part],
                "attention_mask": [fill(encoded[at].attention_mask) for at in part],
                "token_type_ids": [fill(encoded[at].type_ids) for at in part],
            }
            yield part, {name: numpy.array(values, dtype=numpy.int64) for name, values in rows.items()}

    return batches


def torch_type(name: str):
    import torch

    return {"f32": torch.float32, "bf16": torch.bfloat16}[name]


class Transformers:
    """AutoModelForSequenceClassification on torch, with padded batches of similar length."""

    packages = ("transformers", "torch")

    def __init__(self, folder: Path, dtype: str, threads: int, _model_file: Path | None = None):
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(threads)
        self.torch, self.folder = torch, folder
        load = AutoModelForSequenceClassification.from_pretrained
        self.model = load(folder, dtype=torch_type(dtype), attn_implementation="sdpa").eval()
        self.takes_types = getattr(self.model.config, "type_vocab_size", 0) > 1

    def scores(self, query: str, documents: list[str], batch: int) -> list[float]:
        scores = [0.0] * len(documents)
        with self.torch.inference_mode():
            for places, rows in pairs_by_length(self.folder, query, documents)(batch):
                if not self.takes_types:
                    del rows["token_type_ids"]
                logits = self.model(**{name: self.torch.from_numpy(values) for name, values in rows.items()}).logits
                for place, logit in zip(places, logits[:, 0].tolist(), strict=True):
                    scores[place] = logit
        return scores


class SentenceTransformers:
    """CrossEncoder of sentence-transformers."""

    packages = ("sentence-transformers", "transformers", "torch")

    def __init__(self, folder: Path, dtype: str, threads: int, _model_file: Path | None = None):
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(threads)
        self.model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch_type(dtype)})
        self.identity = torch.nn.Identity()

    def scores(self, query: str, documents: list[str], batch: int) -> list[float]:
        pairs = [(query, document) for document in documents]
        options = {"batch_size": batch, "show_progress_bar": False, "convert_to_tensor": True}
        # `predict` pads in the order of the list.
        order = sorted(range(len(pairs)), key=lambda at: len(documents[at]))
        found = self.model.predict([pairs[at] for at in order], activation_fn=self.identity, **options).tolist()
        return [score for _, score in sorted(zip(order, found, strict=True))]


def export(folder: Path, scratch: Path) -> Path:
    """The checkpoint as ONNX, in f32. Needs torch, transformers, onnx and onnxscript."""
    import torch
    from transformers import AutoModelForSequenceClassification

    file = scratch / "model.onnx"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    types = getattr(model.config, "type_vocab_size", 0) > 1
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    example = {name: torch.ones(2, 16, dtype=torch.long) for name in names}
    batch, length = torch.export.Dim("batch", min=1, max=512), torch.export.Dim("length", min=2, max=500)
    torch.onnx.export(
        model,
        (),
        file,
        kwargs=example,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
        dynamo=True,
    )
    return file


class OnnxRuntime:
    """onnxruntime; int8 quantises every matrix dynamically, with a scale for each output."""

    packages = ("onnxruntime",)

    def __init__(self, folder: Path, dtype: str, threads: int, model_file: Path):
        import onnxruntime

        if dtype == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantised = Path(tempfile.mkdtemp()) / "int8.onnx"
            quantize_dynamic(model_file, quantised, per_channel=True, weight_type=QuantType.QInt8)
            model_file = quantised
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])
        self.names = {given.name for given in self.session.get_inputs()}
        self.folder = folder

    def scores(self, query: str, documents: list[str], batch: int) -> list[float]:
        scores = [0.0] * len(documents)
        for places, rows in pairs_by_length(self.folder, query, documents)(batch):
            logits = self.session.run(["logits"], {name: rows[name] for name in self.names})[0]
            for place, logit in zip(places, logits[:, 0], strict=True):
                scores[place] = float(logit)
        return scores


class OpenVino:
    """OpenVINO on the ONNX file, with its latency hint."""

    packages = ("openvino",)

    def __init__(self, folder: Path, dtype: str, threads: int, model_file: Path):
        import openvino

        core = openvino.Core()
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": dtype, "PERFORMANCE_HINT": "LATENCY"}
        self.model = core.compile_model(core.read_model(model_file), "CPU", options)
        self.names = {given.get_any_name() for given in self.model.inputs}
        self.folder = folder

    def scores(self, query: str, documents: list[str], batch: int) -> list[float]:
        scores = [0.0] * len(documents)
        for places, rows in pairs_by_length(self.folder, query, documents)(batch):
            logits = self.model({name: rows[name] for name in self.names})["logits"]
            for place, logit in zip(places, logits[:, 0], strict=True):
                scores[place] = float(logit)
        return scores


class Infinity:
    """infinity-emb's engine in this process, on torch, with raw scores."""

    packages = ("infinity-emb", "transformers", "torch")

    def __init__(self, folder: Path, dtype: str, threads: int, _model_file: Path | None = None):
        import torch
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        torch.set_num_threads(threads)
        self.loop = asyncio.new_event_loop()
        kind = {"f32": "float32", "bf16": "bfloat16"}[dtype]
        self.arguments = {"model_name_or_path": str(folder), "engine": "torch", "device": "cpu", "dtype": kind}
        self.arguments |= {"bettertransformer": False, "compile": False, "model_warmup": False}
        self.new_engine = lambda size: AsyncEmbeddingEngine.from_args(EngineArgs(**self.arguments, batch_size=size))
        self.engines: dict = {}

    def scores(self, query: str, documents: list[str], batch: int) -> list[float]:
        return self.loop.run_until_complete(self.rerank(query, documents, batch))

    async def rerank(self, query: str, documents: list[str], batch: int) -> list[float]:
        if batch not in self.engines:
            self.engines[batch] = self.new_engine(batch)
            await self.engines[batch].astart()
        found, _ = await self.engines[batch].rerank(query=query, docs=documents, raw_scores=True)
        return [float(one.relevance_score) for one in sorted(found, key=lambda one: one.index)]


RUNTIMES = {
    "transformers": Transformers,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "infinity-emb": Infinity,
}
