"""Write shards, stream them as packed batches, stop, and resume at exactly the next token.

The state of a stream is a short JSON text. A new stream that loads it yields the same batches that
the first one would have yielded, regardless of prefetching and shuffling.

    uv run python examples/stream_shards.py
"""

import json
import tempfile
from itertools import islice
from pathlib import Path

from mlx_shards import StreamConfig, TokenStream, local_shards, write_shards

folder = Path(tempfile.mkdtemp(prefix="shards-"))
texts = (f"Document {number}. " + "One more sentence. " * (number % 13) for number in range(2000))
write_shards(texts, folder, shard_chars=20_000)
shards = local_shards(folder)
print(f"{len(shards)} shards in {folder}")


def tokenize(texts):
    """Return lists of ids: bytes plus 1, so that 0 is free for BOS."""
    return [[1 + byte for byte in text.encode()] for text in texts]


def open_stream():
    config = StreamConfig(sequence_length=128, batch_size=8, bos_id=0, seed=1)
    return TokenStream(shards, tokenize, config)


whole = [batch.inputs.tolist() for batch in islice(open_stream(), 20)]

first = open_stream()
before = [batch.inputs.tolist() for batch in islice(first, 7)]
saved = json.dumps(first.state())  # save it with the checkpoint of the model
second = open_stream()
second.load_state(saved)
after = [batch.inputs.tolist() for batch in islice(second, 13)]

assert before + after == whole
print(f"7 batches, a stop and 13 batches equal 20 batches; the state has {len(saved)} bytes")
