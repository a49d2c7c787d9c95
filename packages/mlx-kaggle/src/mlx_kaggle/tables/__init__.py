"""Tables of a competition: read them, infer columns and task, split rows, write a submission."""
