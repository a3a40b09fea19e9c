"""Other engines' forward passes inside ours: the protocol, and backends that implement it.

* decoding.backends.protocol: `Backend`, for authors of further ones;
* decoding.backends.model: `BackendModel`, which makes a Backend a model of our engine;
* decoding.backends.llama_cpp, .transformers, .onnxruntime: imported only when they are asked for.
"""
