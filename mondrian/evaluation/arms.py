"""The arms of an evaluation, which all answer the same photos.

base        the base model as it is
few_shot    the base with critiques of train in its prompt: what is possible without training
fine_tuned  the base with the adapter
shuffled    the adapter sees a different photo: if its scores are as good, it ignores the image

base_constrained and fine_tuned_constrained have the prompts of base and fine_tuned and use
constrained decoding.
"""

ARMS = ("base", "few_shot", "fine_tuned", "shuffled")
CONSTRAINED_ARMS = {"base_constrained": "base", "fine_tuned_constrained": "fine_tuned"}
# arms generated in one batch: they share adapter, prompt prefix and decoding
BATCHED_ARMS = (
    ("base",),
    ("few_shot",),
    ("fine_tuned", "shuffled"),
    ("base_constrained",),
    ("fine_tuned_constrained",),
)
ARMS_WITHOUT_ADAPTER = ("base", "few_shot", "base_constrained")
SAMPLED = "sampled"  # variant of a photo: unchanged, with another sampling seed
