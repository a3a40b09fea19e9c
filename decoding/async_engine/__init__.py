"""The engine for an event loop: AsyncEngine, its request handles, and the threads that tokenise."""

from decoding.async_engine.engine import AsyncEngine
from decoding.async_engine.handle import RequestHandle
from decoding.async_engine.text_work import start_text_work

__all__ = ["AsyncEngine", "RequestHandle", "start_text_work"]
