"""Which way each of genlab's metrics is better: those of `genlab eval` and those logged as val/.

A metric of your own declares `higher_is_better` itself, as torchmetrics.Metric does.
"""

__all__ = ["HIGHER_IS_BETTER", "higher_is_better"]

# None: neither, for what describes a model or its data and is not to be optimised.
HIGHER_IS_BETTER: dict[str, bool | None] = {
    # images
    "fid": False,
    "fid_floor": None,  # of real images
    "fid_gaussian": False,
    "fid_mapping": False,
    "fid_random": False,
    "fid_reconstructions": False,
    "kid": False,
    "precision": True,
    "recall": True,
    "density": True,
    "coverage": True,
    "prd_precision": True,
    "prd_recall": True,
    "diversity": True,
    "inception_score": True,
    "class_score": True,
    "nearest": False,
    "nearest_train": None,  # small where samples are good, and smaller where they are copies
    "nearest_train_floor": None,
    "nearest_sample": False,
    "code_correlation": True,
    "code_mean": None,
    "code_std": None,
    "reconstruction_mse": False,
    "reconstruction_ssim": True,
    "train_reconstruction_mse": False,
    "class_agreement": True,
    "score_real": None,
    # densities and invertible networks
    "bits_per_dim": False,
    "bits_per_dim_floor": None,
    "nll": False,
    "nll_floor": None,
    "ood_auroc": True,
    "ood_auroc_typicality": True,
    "ood_bits_per_dim": None,
    "ood_nll": None,
    "integral": None,  # 1 is right
    "histogram_distance": False,
    "histogram_floor": None,
    "reconstruction_error": False,
    "reconstruction_error_noise": False,
    "pixels_changed": False,
    # classifiers and language models
    "accuracy": True,
    "cross_entropy": False,
    "loss": False,
    "masked_accuracy": True,
    "token_accuracy": True,
    "perplexity": False,
    "perplexity_free": False,
    "pseudo_perplexity": False,
    "tokens_per_second": True,
    # texts and answers
    "em": True,
    "f1": True,
    "quality": True,
    "rouge_l": True,
    "bleu": True,
    "no_answer_accuracy": True,
    "wrongly_unanswered": False,
    "answers_per_second": True,
    "texts_per_second": True,
    "label_word_accuracy": True,
    "bayes_accuracy": True,
    "control_accuracy": True,
    "form_accuracy": True,
    "rhyme_agreement": True,
    "distinct_1": True,
    "distinct_2": True,
    "self_bleu": False,
    "copied_texts": False,
    "copied_6grams": False,
}


def higher_is_better(name: str) -> bool | None:
    """Whether higher values of one of genlab's own metrics are better; None where neither way is,
    and for names that genlab does not know.

    Args:
        name: As in eval/metrics.json (fid) or manifest.json (test/fid, val/fid_random); of a field
            or label with that behind it (perplexity form=5x8).
    """
    return HIGHER_IS_BETTER.get(name.rpartition("/")[2].partition(" ")[0])
