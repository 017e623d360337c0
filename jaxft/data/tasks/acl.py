"""ACL-ARC: the intent of a citation, as scibert's repository has it.

load("acl_sup", source="sample").labels
"""

from jaxft.data.sources import RemoteFile
from jaxft.data.tasks.registry import TaskSpec, register

REPO, COMMIT = "allenai/scibert", "06793f77d7278898159ed50da30d173cdc8fdea9"
SHA256 = {
    "train": "58eef60d2bbfdabefc3de25191714f769db03134523ef67e87d864112c67908c",
    "dev": "bc456ac8caf40829dc2d3a44801a385ad8463c80682cbf002c19329b35812b5f",
    "test": "749d083cc3141d54a2bf1475c02a5a1c020c664601d55fe2829bdf85f06db4bb",
}

register(
    TaskSpec(
        name="acl",
        title="ACL-ARC",
        labels=("Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses"),
        files={
            split: RemoteFile(
                REPO,
                COMMIT,
                f"data/text_classification/citation_intent/{split}.txt",
                sha256,
                ending="jsonl",  # JSON lines, whatever their name there says
            )
            for split, sha256 in SHA256.items()
        },
        # It is small and learns its rare classes late: after 3 epochs it may still predict only one
        # class.
        epochs=8,
    )
)
