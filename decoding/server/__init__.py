"""The HTTP server of the Completions API (extra `server`): FastAPI on uvicorn, one engine thread per model."""
