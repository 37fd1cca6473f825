"""Any tokenizer of PaddleNLP, with the extra `vilg[paddlenlp]`."""

from vilg.errors import UserError
from vilg.text.vocabulary import hash_entries
from vilg.text.wordpiece import join_tokens


class PaddleNLPTokenizer:
    """A tokenizer of PaddleNLP. `text.tokenizer` is its class (ErnieTokenizer, BertTokenizer, ..), `text.vocab` a
    folder or a model name.
    """

    def __init__(self, class_name: str, source: str):
        try:
            from paddlenlp import transformers
        except ImportError as error:
            raise UserError(
                f"text.tokenizer={class_name}: needs PaddleNLP (pip install 'vilg[paddlenlp]'): {error}"
            ) from None
        kind = getattr(transformers, class_name, None)
        if kind is None or not hasattr(kind, "from_pretrained"):
            raise UserError(f"text.tokenizer={class_name}: PaddleNLP has no such tokenizer")
        try:
            self._tokenizer = kind.from_pretrained(source)
        except Exception as error:  # PaddleNLP passes on exceptions of model hubs
            raise UserError(
                f"text.vocab={source}: {class_name} cannot read it ({' '.join(str(error).split())})"
            ) from None
        self.vocab_size = len(self._tokenizer)
        self.unk_id = self._tokenizer.unk_token_id
        self._special = set(self._tokenizer.all_special_ids) - {self.unk_id}
        self.cls_id, self.sep_id = self._tokenizer.cls_token_id, self._tokenizer.sep_token_id

    def encode(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [token_id for token_id in ids if token_id not in self._special]  # text such as "[SEP]" in a caption

    def entries(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    def fingerprint(self) -> str:
        return hash_entries(self.entries())

    def decode(self, ids: list[int]) -> str:
        text_ids = [token_id for token_id in ids if token_id not in self._special]
        return join_tokens(self._tokenizer.convert_ids_to_tokens(text_ids))
