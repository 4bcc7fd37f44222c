"""The arms of an evaluation, which all answer the same photos. The model generates:

base        the base model as it is
few_shot    the base with critiques of train in its prompt: what is possible without training;
            with constrained decoding
fine_tuned  the base with the adapter

base_constrained and fine_tuned_constrained have the prompts of base and fine_tuned and use
constrained decoding, as the service does. Scores and words are judged by them; base and fine_tuned
show how often the raw answers are schema-valid.
"""

ARMS = ("base", "few_shot", "fine_tuned")
CONSTRAINED_ARMS = {"base_constrained": "base", "fine_tuned_constrained": "fine_tuned"}
WITH_GRAMMAR = ("few_shot", *CONSTRAINED_ARMS)
# by arm: the arm of the answers whose scores and words are judged
JUDGED_ARMS = {
    "base": "base_constrained",
    "few_shot": "few_shot",
    "fine_tuned": "fine_tuned_constrained",
}
ARMS_WITHOUT_ADAPTER = ("base", "few_shot", "base_constrained")
SAMPLED = "sampled"  # variant of a photo: unchanged, with another sampling seed
