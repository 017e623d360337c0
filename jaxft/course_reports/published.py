"""Figures that five course reports published for the same tasks, to compare with runs of jaxft.

    reference_of("restaurant_sup").rows     # the published rows of SemEval-2014 restaurants

The reports, A to E, fine-tuned encoders with PyTorch and added adapters and LoRA. D and E print
figures by task, means over five seeds; B and C say in words how adapters compare with full
fine-tuning; A has none. Figures are as printed, remarks are ours.
"""

from jaxft.reporting.reference import PublishedRow, Reference
from jaxft.reporting.stats import Spread

SEEDS = 5
TASKS = ("restaurant", "acl", "agnews")
EPOCHS = {"D": 3, "E": 20}
TITLE = "Compared with five course reports"

Figures = tuple[float, float | None, float, float | None]  # accuracy, std, macro-F1, std


# Report, model and method -> figures on restaurant, acl and agnews. E prints no ± that can be one.
ROWS: dict[tuple[str, str, str], tuple[Figures, Figures, Figures]] = {
    ("D", "bert-base", "full"): (
        (0.7587, 0.0175, 0.5441, 0.0445),
        (0.5669, 0.0362, 0.1820, 0.0381),
        (0.9205, 0.0038, 0.9190, 0.0038),
    ),
    ("D", "roberta-base", "full"): (
        (0.7857, 0.0047, 0.5791, 0.0166),
        (0.5698, 0.0070, 0.2048, 0.0023),
        (0.9197, 0.0066, 0.9181, 0.0068),
    ),
    ("D", "scibert", "full"): (
        (0.7720, 0.0064, 0.6201, 0.0141),
        (0.6547, 0.0091, 0.2844, 0.0110),
        (0.9042, 0.0030, 0.9028, 0.0032),
    ),
    ("D", "roberta-base", "adapter"): (
        (0.6500, 0.0138, 0.2626, 0.0103),
        (0.5036, 0.0144, 0.1178, 0.0103),
        (0.7071, 0.0603, 0.7011, 0.0583),
    ),
    ("E", "roberta-base", "full"): (
        (0.8648, None, 0.7908, None),
        (0.8119, None, 0.7742, None),
        (0.9327, None, 0.9314, None),
    ),
    ("E", "bert-base", "full"): (
        (0.8372, None, 0.7498, None),
        (0.7712, None, 0.7160, None),
        (0.9283, None, 0.9266, None),
    ),
    ("E", "scibert", "full"): (
        (0.8270, None, 0.7334, None),
        (0.7610, None, 0.7079, None),
        (0.9214, None, 0.9198, None),
    ),
    ("E", "not named", "adapter"): (
        (0.8616, None, 0.7798, None),
        (0.8041, None, 0.7654, None),
        (0.9250, None, 0.9232, None),
    ),
    ("E", "not named", "lora"): (
        (0.8196, None, 0.6883, None),
        (0.6259, None, 0.2797, None),
        (0.9197, None, 0.9179, None),
    ),
}

REMARKS = {
    ("D", "adapter", "restaurant"): (
        "the majority class (728 of 1,120 test texts; 0.2626 is exactly its macro-F1), not an "
        "adapter's result"
    ),
    ("D", "adapter", "acl"): "next to the majority class",
}
SETTINGS = (
    "D trains 3 epochs at batch 128 and learning rate 2e-5, too few and too small steps for an "
    "adapter.",
    "E trains 20 epochs; its column “variance” cannot be one over seeds of these means, so no ± "
    "is shown.",
)
NOTES = {
    "restaurant": ("In words: B's adapter equals full fine-tuning, C's is 0.5 points below it.",),
    "acl": (
        "In words: B's adapter is above full fine-tuning, C's about 4 points below it.",
        "52 of the 139 test texts also occur in train.",
    ),
    "agnews": ("In words: B's adapter is below full fine-tuning, C's is equal to it.",),
}


def reference_of(task: str) -> Reference | None:
    """Returns the published results of a task; None for few-shot, merged and other ones."""
    name = task.removesuffix("_sup")
    if name not in TASKS:
        return None
    rows = []
    for (report, model, method), figures in ROWS.items():
        accuracy, accuracy_std, f1, f1_std = figures[TASKS.index(name)]
        spreads = Spread(accuracy, accuracy_std, SEEDS), Spread(f1, f1_std, SEEDS)
        remark = REMARKS.get((report, method, name), "")
        row = PublishedRow(f"report {report}", model, method, EPOCHS[report], *spreads, remark)
        rows.append(row)
    return Reference(TITLE, "course reports", rows, [*SETTINGS, *NOTES[name]])
