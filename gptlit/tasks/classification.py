"""Classification: a pretrained model with a new head says which class a text is of."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlit.model import LoRAConfig, TextClassifier, add_lora, trained_blocks
from gptlit.predictions import Predictions, classification_metrics
from gptlit.tasks.base import Task
from gptlit.tasks.features import FeatureCache


class ClassificationTask(Task):
    """One class for each text, from the hidden state at its pooled position.

    Batches have `input_ids` (batch, time) int64, padded on the right, `lengths` (batch,), `labels`
    (batch,) and `rows` (batch,), the place of each text in its split.

    Settings: `labels` (names of the classes), `trainable` (see `trained_blocks`), `pool` and
    `causal` (see `TextClassifier`), `label_smoothing` (from 0 to below 1), `class_weights` (one per
    class, or None), `cache_features` ("auto", True or False), and for trainable=lora `lora` (the
    fields of `LoRAConfig`).

    Metrics: `val/loss` (nats per text, weighted and smoothed as in training) and those of
    `classification_metrics`; at the end the same for all splits, class by class too.
    """

    name = "classification"
    command = "classify.py"
    needs = ("labels", "trainable", "pool", "causal", "label_smoothing", "cache_features")
    classifier: TextClassifier
    class_weights: Tensor | None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        settings = self.settings
        self.labels: list[str] = list(settings["labels"])
        self.head = nn.Linear(self.model.cfg.emb_dim, len(self.labels), bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.first_trainable = self._freeze(settings["trainable"])
        self.classifier = TextClassifier(
            self.model, self.head, settings["pool"], settings["causal"], self.first_trainable
        )
        weights = settings.get("class_weights")
        self.register_buffer(
            "class_weights",
            None if weights is None else torch.tensor(weights, dtype=torch.float32),
            persistent=False,
        )
        self._features: FeatureCache | None = None
        self._features_of: Any = None  # the splits whose texts were computed
        self._first: dict[str, int] = {}  # the place of each split's first text in the features
        self._seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self.predictions: dict[str, Predictions] = {}
        """Those of the newest evaluation, by split."""
        if settings["cache_features"] is True and self.why_not_cached:
            raise ValueError(f"task.cache_features=true cannot be: {self.why_not_cached}")

    def _freeze(self, trainable: str) -> int:
        """Freeze all but what the setting says; returns the first block with something to train,
        or n_layers if only what comes after the blocks is trained.

        Raises:
            ValueError: there is no such choice.
        """
        model, n_layers = self.model, self.model.cfg.n_layers
        last = trained_blocks(trainable, n_layers)
        if trainable == "all":
            if model.out_head is not None:
                model.out_head.requires_grad_(False)  # the language model's, which is not used
            return 0
        if trainable == "lora":
            add_lora(model, LoRAConfig.from_dict(self.settings["lora"]))
            return 0
        model.requires_grad_(False)
        if trainable != "head":
            model.final_norm.requires_grad_(True)
        for block in model.trf_blocks[n_layers - last :]:
            block.requires_grad_(True)
        return n_layers - last

    def count_tokens(self, batch: Any, targets: Tensor) -> Tensor:
        """The tokens of the texts, as each text has only one target."""
        return batch.lengths.sum().to(targets)

    def flops_per_token(self) -> float:
        """Not known: it depends on the length of the texts and on what is computed only once."""
        return 0.0

    def on_train_start(self) -> None:
        """Compute the output of frozen blocks once."""
        self.cache_features()

    @property
    def why_not_cached(self) -> str:
        """Why frozen blocks cannot be computed just once; empty if they can."""
        if self.first_trainable == 0:
            return f"task.trainable={self.settings['trainable']} trains the first block too"
        if self.model.cfg.drop_rate > 0:
            return f"model.drop_rate={self.model.cfg.drop_rate} makes frozen blocks random"
        return ""

    def cache_features(self) -> None:
        """Compute and keep the input of the first trainable block for every text of every split,
        unless the Trainer has only bare loaders."""
        splits = self._drop_features_of_others()
        wanted = self.settings["cache_features"] and not self.why_not_cached
        if self._features is not None or not wanted or splits is None:
            return
        self._features_of = splits
        ids: list[np.ndarray] = []
        for split, texts in splits.items():
            self._first[split] = len(ids)
            ids += texts.ids
        whole = self.whole()
        assert isinstance(whole, ClassificationTask)
        with self.trainer.precision_plugin.forward_context():
            self._features = FeatureCache.compute(
                whole.classifier.lower,
                ids,
                self.model.cfg.emb_dim,
                self.device,
                Path(self.trainer.default_root_dir),
                self.global_rank,
                self.trainer.world_size,
            )

    def _drop_features_of_others(self) -> Any:
        """Forget features of any data module but the Trainer's; returns the splits of that one."""
        splits = getattr(self.trainer.datamodule, "splits", None)  # type: ignore[attr-defined]
        if splits is not self._features_of:
            self._features = self._features_of = None
        return splits

    def _logits(self, batch: Any, split: str) -> Tensor:
        if self._features is None:
            return self.classifier.logits(batch.input_ids, batch.lengths)
        x = self._features.batch(batch.rows + self._first[split], batch.input_ids.shape[1])
        x = x.to(self.device, self.head.weight.dtype)
        return self.classifier.upper(x, batch.lengths).float()

    def loss_sum(self, batch: Any) -> tuple[Tensor, Tensor | int]:
        """Cross entropy, each text weighted by its class, and the sum of the weights."""
        logits = self._logits(batch, "train")
        return self._cross_entropy(logits, batch.labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        loss = F.cross_entropy(
            logits,
            labels,
            weight=weights,
            label_smoothing=self.settings["label_smoothing"],
            reduction="sum",
        )
        return loss, len(labels) if weights is None else weights[labels].sum()

    on_validation_start = on_train_start

    def on_validation_epoch_start(self) -> None:
        """Forget what was predicted before."""
        self._seen.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Predict one batch."""
        self._predict(batch, "validation")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all texts of all processes."""
        found = {f"val/{n}": v for n, v in self._measure("validation").items() if "/" not in n}
        self.log_at_step(found)

    def on_test_start(self) -> None:
        """Forget features of other texts."""
        self._drop_features_of_others()

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict one batch of the split `final_splits[dataloader_idx]`."""
        self._predict(batch, self.final_splits[dataloader_idx])

    def on_test_epoch_end(self) -> None:
        """Measure every split, and log the metrics of the test split."""
        for split in self.final_splits:
            prefix = "val" if split == "validation" else split
            found = {f"{prefix}/{name}": value for name, value in self._measure(split).items()}
            self.final_metrics.update(found)
            if split == "test":
                shown = {n: v for n, v in found.items() if n.count("/") == 1}
                self.log_at_step(shown)

    def _predict(self, batch: Any, split: str) -> None:
        logits = self._logits(batch, split).detach().cpu()
        self._seen.setdefault(split, []).append((batch.rows.cpu(), batch.labels.cpu(), logits))

    def _measure(self, split: str) -> dict[str, float]:
        """Loss and metrics of all that was predicted, in all processes."""
        parts = self._seen.get(split, [])
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for some in gathered for part in some]
        if not parts:
            return {}
        rows, labels, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        order = rows.argsort()
        rows, labels, logits = rows[order], labels[order], logits[order]
        self.predictions[split] = Predictions(rows, labels, logits.softmax(dim=1))
        loss, count = self._cross_entropy(logits.to(self.device), labels.to(self.device))
        metrics = classification_metrics(self.predictions[split].probabilities, labels, self.labels)
        return {"loss": float(loss) / max(float(count), 1e-9), **metrics}
