"""Tables of a competition: read, infer columns and task, split rows, write a submission."""
