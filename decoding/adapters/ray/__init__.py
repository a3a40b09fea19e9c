"""Many machines with Ray (the extra `ray`): batch files over Ray Data, replicas of the server by Ray Serve.

    from decoding.adapters.ray.data import run_batch
    run_batch("requests.jsonl", "answers", model="model.gguf", num_workers=2)

    from decoding.adapters.ray.serve import application
    ray.serve.run(application({"model": "model.gguf"}, num_replicas=2))

docs/scaling.md has measurements, and the arithmetic for 1,000 machines.
"""
