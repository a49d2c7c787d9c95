"""The formats that are known from the start; importing this module registers them."""

from mlx_shards import formats, tokens

formats.register_format(".parquet", formats.ParquetText)
formats.register_format(".jsonl", formats.JsonLines)
formats.register_format(".jsonl.gz", formats.GzipJsonLines)
formats.register_format(".jsonl.zst", formats.ZstdJsonLines)
formats.register_format(".bin", tokens.open_bin)
formats.register_format(".npy", tokens.open_npy)
formats.register_format(".safetensors", tokens.open_safetensors)
