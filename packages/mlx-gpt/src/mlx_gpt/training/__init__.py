"""The training stages, each a script whose loop fits one screen: pretrain, sft, rl."""
