"""Train your own ChatGPT with MLX: tokenizer, pretraining, fine-tuning, evaluation, chat."""
