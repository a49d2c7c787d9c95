"""Results of perplexity, exact match and choices as lines for a terminal."""

from typing import Any


def describe_perplexity(found: dict[str, Any]) -> str:
    """Return the lines of `evaluate_perplexity`'s result."""
    unigram = found["unigram"]
    lines = [
        f"perplexity over {found['tokens']:,} tokens of {found['rows']:,} of "
        f"{found['available_rows']:,} rows",
        f"{'':<18}     loss  perplexity  bits/byte",
        _losses("model", found),
        _losses("unigram, no context", unigram),
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def describe_exact_match(found: dict[str, Any]) -> str:
    """Return the lines of `evaluate_exact_match`'s result."""
    common = found["most_frequent"]
    lines = [
        f"exact match (the {found['compared']}) over {found['questions']:,} of "
        f"{found['available_questions']:,} questions",
        f"  model                 {found['accuracy']:.4f}",
        f"  most frequent answer  {common['accuracy']:.4f}  ({common['answer'][:40]})",
    ]
    if found["cut_answers"]:
        lines.append(f"note: {found['cut_answers']:,} answers did not end within --max-tokens")
    if found["shortened_prompts"]:
        lines.append(f"note: {found['shortened_prompts']:,} prompts lost their beginning")
    lines += [
        f"wrong: {each['where']}: expected {each['expected']!r}, got {each['answer']!r}"
        for each in found["wrong"]
    ]
    return "\n".join(lines)


def describe_choices(found: dict[str, Any]) -> str:
    """Return the lines of `evaluate_choices`' result."""
    common = found["most_frequent"]
    return "\n".join(
        [
            f"choices over {found['questions']:,} of {found['available_questions']:,} questions",
            f"  model                {found['accuracy']:.4f}",
            f"  chance               {found['chance']:.4f}",
            f"  most frequent place  {common['accuracy']:.4f}  (choice {common['choice']})",
            f"  longest choice       {found['longest']:.4f}",
        ]
    )


def _losses(name: str, found: dict[str, Any]) -> str:
    bits = found["bits_per_byte"]
    shown = "        -" if bits is None else f"{bits:9.4f}"
    return f"  {name:<19}{found['loss']:7.4f}  {found['perplexity']:10,.2f}  {shown}"
