"""Our sampler inside other engines, and our engine on many machines: a module and an extra for each.

* transformers: a logits processor for `model.generate`;
* llama_cpp: in place of llama.cpp's sampler chain;
* onnxruntime, onnxruntime_genai: decoding loops;
* vllm: a plug-in for its engine;
* ray: batch files over Ray Data, replicas of the server by Ray Serve.

Nothing is imported before it is asked for. docs/adapters.md has an example of each.
"""
