"""The SMS Spam Collection in batches that are not padded to their own longest text."""

import torch.nn.functional as F

from gptlit.data.batch import LabelledBatch
from gptlit.data.spam import SmsSpamDataModule


class PaddedSpam(SmsSpamDataModule):
    """Every text is padded to the longest of all."""

    def on_after_batch_transfer(self, batch: LabelledBatch, dataloader_idx: int) -> LabelledBatch:
        """Lightning's hook right before a step."""
        missing = self.longest() - batch.input_ids.shape[1]
        padded = F.pad(batch.input_ids, (0, missing), value=self.tokenizer.eot_id)
        return batch._replace(input_ids=padded)

    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(int(split.lengths.max()) for split in self.splits.values())
