"""Chat (extra `chat`): messages rendered by a model's template to a prompt, in a sandboxed process."""

from decoding.chat.format import ChatFormat, ChatPrompt

__all__ = ["ChatFormat", "ChatPrompt"]
