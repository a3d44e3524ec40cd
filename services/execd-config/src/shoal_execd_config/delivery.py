"""Options as they go over the bus: under a limit; what makes them too large is named by its digest alone. Pure."""

from shoal_bus import codec
from shoal_model.messages import NodeOptions

LIMIT = 64 << 10
"""Bytes of a message with options. (The bus takes 1 MB, but holds one for every node in a boot storm.)"""


def fitted(options: NodeOptions, limit: int = LIMIT) -> NodeOptions:
    """The options with the largest contents left out, as many as it takes to come below `limit` bytes."""
    size = len(codec.encode(options))
    files = list(options.files)
    for index in sorted(range(len(files)), key=lambda each: files[each].size, reverse=True):
        if size <= limit or not files[index].size:
            break
        size -= files[index].size
        files[index] = files[index].model_copy(update={"content": None})
    return options.model_copy(update={"files": files})


def content_of(options: NodeOptions, sha256: str) -> bytes | None:
    """The content of a digest, if these options have it."""
    return next((file.content for file in options.files if file.sha256 == sha256), None)
