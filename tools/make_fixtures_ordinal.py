"""Make the fixture of mlx-heads' ordinal labels with coral-pytorch.

Run: python tools/make_fixtures_ordinal.py   (needs torch, coral-pytorch and numpy)
"""

import json
from pathlib import Path

import numpy as np
import torch
from coral_pytorch.dataset import corn_label_from_logits, proba_to_label

FOLDER = Path(__file__).parents[1] / "packages/mlx-heads/tests/fixtures"


def ordinal_labels() -> dict[str, list]:
    """Labels of (40, 4) logits read as CORN's (conditional) and CORAL's (cumulative).

    CORAL's are sorted, as those of a trained layer are: for crossing ones the two libraries differ
    on purpose.
    """
    logits = np.random.default_rng(0).normal(0.7, 2.0, (40, 4)).round(3)
    conditional, cumulative = torch.tensor(logits), torch.tensor(-np.sort(-logits, axis=1))
    return {
        "conditional": conditional.tolist(),
        "corn_labels": corn_label_from_logits(conditional).tolist(),
        "cumulative": cumulative.tolist(),
        "coral_labels": proba_to_label(torch.sigmoid(cumulative)).tolist(),
    }


if __name__ == "__main__":
    (FOLDER / "ordinal_labels.json").write_text(json.dumps(ordinal_labels()) + "\n")
