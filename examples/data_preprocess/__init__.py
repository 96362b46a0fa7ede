"""Public question sets (and a generated one) as rows for reinforcement learning and fine-tuning; see docs/data.md."""
