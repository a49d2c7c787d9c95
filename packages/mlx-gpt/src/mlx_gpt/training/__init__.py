"""The training stages, each a script whose loop fits on one screen: pretrain, sft, rl."""
