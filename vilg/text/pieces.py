"""From WordPiece back to text."""


def join_pieces(pieces: list[str]) -> str:
    """Pieces -> text: `##` joins, Latin words and numbers get spaces between them, Chinese and punctuation none."""
    text = ""
    for piece in pieces:
        if piece.startswith("##"):
            text += piece[2:]
        elif text and _is_latin(text[-1]) and _is_latin(piece[0]):
            text += " " + piece
        else:
            text += piece
    return text


def _is_latin(character: str) -> bool:
    return character.isalnum() and ord(character) < 0x2E80  # where the CJK blocks begin
