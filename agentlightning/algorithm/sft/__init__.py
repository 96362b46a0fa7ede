"""Supervised fine-tuning on conversations, with the learner's own step."""

from .finetune import FinetuneConfig, finetune

__all__ = ["FinetuneConfig", "finetune"]
