"""The transformer and its attention."""

from dataclasses import dataclass

from vilg.config.validation import require


@dataclass
class Model:
    """The shared transformer (section 3.1.2 of the paper). The defaults are the paper's 10 billion parameters."""

    layers: int = 48
    hidden: int = 4096
    heads: int = 64
    conv_kernel: int = 11
    dropout: float = 0.0
    # Against divergence; see docs/stability.md.
    sandwich_norm: bool = False  # LayerNorm also at the end of both branches of a block (CogView)
    qk_norm: bool = False  # LayerNorm of the queries and keys of each head (ViT-22B, Chameleon)
    embedding_gradient_scale: float = 1.0  # factor of the gradients of token embeddings (0.1 in CogView and GLM-130B)
    # With 16 bits: the residual stream is in fp32, so that 48 blocks do not round it 96 times. It then takes twice the
    # memory, and is most of what recompute keeps. Megatron-LM has an option of this name.
    fp32_residual_connection: bool = False

    def __post_init__(self):
        for name in ("layers", "hidden", "heads", "conv_kernel"):
            require(getattr(self, name) > 0, f"model.{name}={getattr(self, name)}: must be positive")
        require(self.hidden % self.heads == 0, f"model.heads={self.heads}: must divide model.hidden={self.hidden}")
        require(self.conv_kernel % 2 == 1, f"model.conv_kernel={self.conv_kernel}: must be odd")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout}: must be in [0, 1)")
        scale = self.embedding_gradient_scale
        require(0 < scale <= 1, f"model.embedding_gradient_scale={scale}: must be in (0, 1]")


@dataclass
class Attention:
    """The implementation of attention; see vilg/attention/functional.py."""

    backend: str = "auto"  # operator | blockwise | dense | auto: the first of these that is available

    def __post_init__(self):
        backends = ("auto", "operator", "blockwise", "dense")
        require(self.backend in backends, f"attention.backend={self.backend}: none of {', '.join(backends)}")
