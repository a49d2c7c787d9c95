"""Read what nanochat wrote, checkpoints and tokenizer, both pickles, without running them."""
