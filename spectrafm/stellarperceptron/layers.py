"""The encoder-decoder transformer, readable from top to bottom.

Parameter names follow the published code, so that its checkpoints can be read.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .embedding import LogFourierEncoding, NonLinearEmbedding, SinusoidalEncoding
from .patches import PatchEmbedding
from .precision import without_autocast
from .readout import Readout
from .second_opinion import SecondOpinion
from .tokens import places_among

__all__ = [
    "Attention",
    "Memory",
    "StellarPerceptronDecoder",
    "StellarPerceptronEncoder",
    "StellarPerceptronTorchModel",
    "TransformerBlock",
]

# attention of cuDNN is planned anew for every number of tokens, which takes longer than a step of training
_WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _kinds_of_attention(device):
    """Return the context in which attention is computed.

    The kinds that may be used are switches of the whole process, which threads would turn back in
    any order: they are left alone where there is no cuDNN.
    """
    return sdpa_kernel(_WITHOUT_CUDNN) if device.type == "cuda" else nullcontext()


class Attention(nn.Module):
    """Multi-head attention with one learned extra key and value.

    The extra key is always there to attend to, so a star without any token
    still gives finite numbers. Weights are materialised only when asked for.

    Parameters
    ----------
    embedding_dim, n_head : int
        Width and number of heads.
    """

    def __init__(self, embedding_dim, n_head):
        super().__init__()
        self.n_head = n_head
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embedding_dim, embedding_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embedding_dim))
        self.bias_k = nn.Parameter(torch.empty(1, 1, embedding_dim))
        self.bias_v = nn.Parameter(torch.empty(1, 1, embedding_dim))
        self.out_proj = nn.Linear(embedding_dim, embedding_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_normal_(self.bias_k)
        nn.init.xavier_normal_(self.bias_v)
        nn.init.zeros_(self.out_proj.bias)

    def _split(self, x):
        n_star, n_token, width = x.shape
        return x.view(n_star, n_token, self.n_head, width // self.n_head).transpose(1, 2)

    def keys_values(self, memory):
        """Project the vectors that are attended to.

        Parameters
        ----------
        memory : torch.Tensor
            ``(n_star, n_token, embedding_dim)``.

        Returns
        -------
        keys, values : torch.Tensor
            ``(n_star, n_head, n_token + 1, embedding_dim / n_head)``.
        """
        width = memory.shape[-1]
        both = nn.functional.linear(memory, self.in_proj_weight[width:], self.in_proj_bias[width:])
        keys, values = both.chunk(2, dim=-1)
        extra = (len(memory), -1, -1)
        keys = torch.cat((keys, self.bias_k.expand(*extra).to(keys)), dim=1)
        values = torch.cat((values, self.bias_v.expand(*extra).to(values)), dim=1)
        return self._split(keys), self._split(values)

    def forward(self, query, keys, values, pad_mask, need_weights=False):
        """Attend.

        Parameters
        ----------
        query : torch.Tensor
            ``(n_star, n_query, embedding_dim)``.
        keys, values : torch.Tensor
            As `keys_values` gives them.
        pad_mask : torch.Tensor or None
            ``(n_star, n_token)`` bool, True for tokens not to attend to; None where there are none.
        need_weights : bool, optional
            Return the attention weights too.

        Returns
        -------
        attended : torch.Tensor
            ``(n_star, n_query, embedding_dim)``.
        weights : torch.Tensor or None
            ``(n_star, n_query, n_token)`` mean over heads, without the extra key.
        """
        width = query.shape[-1]
        projected = self._split(nn.functional.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width]))
        attend = None
        if pad_mask is not None:
            # the extra key is always there: (n_star, 1, 1, n_token + 1)
            attend = torch.nn.functional.pad(~pad_mask, (0, 1), value=True)[:, None, None, :]
        weights = None
        if need_weights or _explicit_is_faster(keys):
            scores = (projected * projected.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
            if attend is not None:
                scores = scores.masked_fill(~attend, -torch.inf)
            weights = torch.softmax(scores, dim=-1).to(values.dtype)
            mixed = weights @ values
            weights = weights.mean(dim=1)[..., :-1] if need_weights else None
        else:
            mixed = scaled_dot_product_attention(projected, keys, values, attn_mask=attend)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights  # (n_star, n_query, embedding_dim)


def _padded(pad_mask):
    """Return a mask, or None where it masks nothing: attention is faster without."""
    return pad_mask if bool(pad_mask.any()) else None


def _explicit_is_faster(keys):
    """Whether to materialise the weights: the fused product is slow on CPUs for some shapes and types.

    It takes five times as long for heads of 8 in single precision, and backwards in bfloat16.
    """
    if keys.device.type != "cpu" or keys.shape[-2] > 1024:
        return False
    return keys.shape[-1] < 16 or (keys.dtype == torch.bfloat16 and keys.requires_grad)


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each with a residual and a norm.

    Parameters
    ----------
    embedding_dim, n_head, dense_dim : int
        Width, attention heads, width of the hidden dense layer.
    dropout : float
        Dropout after attention and after the dense layers.
    norm_first : bool
        Normalise before attention and dense layers instead of after the sums.
    """

    def __init__(self, embedding_dim, n_head, dense_dim, dropout=0.0, *, norm_first=False):
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(embedding_dim, n_head)
        self.layernorm_1 = nn.LayerNorm(embedding_dim)
        self.layernorm_2 = nn.LayerNorm(embedding_dim)
        self.dense_1 = nn.Linear(embedding_dim, dense_dim)
        self.dense_2 = nn.Linear(dense_dim, embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query, keys_values=None, pad_mask=None, need_weights=False):
        """Let each query look at the keys and values.

        Parameters
        ----------
        query : torch.Tensor
            ``(n_star, n_query, embedding_dim)``.
        keys_values : tuple of torch.Tensor or None
            From ``attention.keys_values``; None is self-attention.
        pad_mask : torch.Tensor or None
            ``(n_star, n_token)`` bool, True for tokens not to attend to; None where there are none.
        need_weights : bool, optional
            Return the attention weights too.

        Returns
        -------
        output : torch.Tensor
            ``(n_star, n_query, embedding_dim)``.
        weights : torch.Tensor or None
            ``(n_star, n_query, n_token)``.
        """
        looking = self.layernorm_1(query) if self.norm_first else query
        if keys_values is None:
            keys_values = self.attention.keys_values(looking)
        attended, weights = self.attention(looking, *keys_values, pad_mask, need_weights)
        x = query + self.dropout(attended)
        if not self.norm_first:
            x = self.layernorm_1(x)
        dense = self.layernorm_2(x) if self.norm_first else x
        dense = self.dense_2(nn.functional.gelu(self.dense_1(dense)))
        x = x + self.dropout(dense)
        return (x if self.norm_first else self.layernorm_2(x)), weights


class StellarPerceptronEncoder(nn.Module):
    """Self-attention among all tokens of a star.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    """

    def __init__(self, config):
        super().__init__()
        self.n_block = len(config.encoder_heads)
        for i, (n_head, dense) in enumerate(zip(config.encoder_heads, config.encoder_dense, strict=True), start=1):
            block = TransformerBlock(config.embedding_dim, n_head, dense, config.dropout, norm_first=config.norm_first)
            self.add_module(f"encoder_transformer_block_{i}", block)
        self.final_norm = nn.LayerNorm(config.embedding_dim) if config.norm_first else nn.Identity()

    @property
    def blocks(self):
        """The transformer blocks in order."""
        return [getattr(self, f"encoder_transformer_block_{i}") for i in range(1, self.n_block + 1)]

    def forward(self, x, pad_mask, need_weights=False):
        """Encode.

        Parameters
        ----------
        x : torch.Tensor
            ``(n_star, n_token, embedding_dim)``.
        pad_mask : torch.Tensor
            ``(n_star, n_token)`` bool, True where padded.
        need_weights : bool, optional
            Return the attention weights of every block too.

        Returns
        -------
        memory : torch.Tensor
            ``(n_star, n_token, embedding_dim)``.
        weights : list of torch.Tensor or None
            ``(n_star, n_token, n_token)`` a block.
        """
        collected, pad_mask = [], _padded(pad_mask)
        for block in self.blocks:
            x, weights = block(x, None, pad_mask, need_weights)
            collected.append(weights)
        return self.final_norm(x), collected


@dataclass
class Memory:
    """The encoder's output for a batch, with the decoder's keys and values.

    Attributes
    ----------
    vectors : torch.Tensor
        ``(n_star, n_token, embedding_dim)``.
    pad_mask : torch.Tensor
        ``(n_star, n_token)`` bool, True where padded.
    keys_values : list of tuple of torch.Tensor
        One pair a decoder block, computed once for all requests.
    attention : list of torch.Tensor
        Encoder attention ``(n_star, n_token, n_token)`` a block, when asked for.
    second_look : torch.Tensor, optional
        ``(n_star,)`` bool, stars whose labels the readout corrects; None where there is none.
    fitted : torch.Tensor, optional
        ``(n_star, n_fitted)`` results of fits to their spectra, for the readout; None where it has none.
    opinion : tuple of torch.Tensor, optional
        Second opinion on labels, as `SecondOpinion.look` returns it; None where there is none.
    """

    vectors: torch.Tensor
    pad_mask: torch.Tensor
    keys_values: list
    attention: list = field(default_factory=list)
    second_look: torch.Tensor | None = None
    fitted: torch.Tensor | None = None
    opinion: tuple | None = None

    @property
    def pooled(self):
        """Mean over the tokens of each star, ``(n_star, embedding_dim)`` float32; zero where there is none."""
        there = (~self.pad_mask)[..., None]
        total = torch.where(there, self.vectors.float(), 0.0).sum(dim=1)
        return total / there.sum(dim=1).clamp(min=1)


class StellarPerceptronDecoder(nn.Module):
    """Cross-attention of requests on the memory, then the prediction.

    Requests do not see each other, so any number can be asked in one call with
    the same answers as one by one.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    """

    def __init__(self, config):
        super().__init__()
        self.n_block = len(config.decoder_heads)
        for i, (n_head, dense) in enumerate(zip(config.decoder_heads, config.decoder_dense, strict=True), start=1):
            block = TransformerBlock(config.embedding_dim, n_head, dense, config.dropout, norm_first=config.norm_first)
            self.add_module(f"decoder_transformer_block_{i}", block)
        self.final_norm = nn.LayerNorm(config.embedding_dim) if config.norm_first else nn.Identity()
        widths = (config.embedding_dim, *config.head_dense)
        # the published code numbers its dense layers on from 3
        self.dense_names = [f"decoder_dense_{i}" for i in range(3, 3 + len(config.head_dense))]
        for name, n_in, n_out in zip(self.dense_names, widths[:-1], widths[1:], strict=True):
            self.add_module(name, nn.Linear(n_in, n_out))
        self.dropout = nn.Dropout(config.head_dropout)
        self.decoder_out = nn.Linear(widths[-1], 1)
        self.decoder_logvar_out = nn.Linear(widths[-1], 1)

    @property
    def blocks(self):
        """The transformer blocks in order."""
        return [getattr(self, f"decoder_transformer_block_{i}") for i in range(1, self.n_block + 1)]

    def keys_values(self, vectors):
        """Project the memory for every block.

        Parameters
        ----------
        vectors : torch.Tensor
            ``(n_star, n_token, embedding_dim)``.

        Returns
        -------
        list of tuple of torch.Tensor
        """
        return [block.attention.keys_values(vectors) for block in self.blocks]

    def forward(self, query, memory, need_weights=False):
        """Answer requests.

        Parameters
        ----------
        query : torch.Tensor
            ``(n_star, n_request, embedding_dim)``.
        memory : Memory
            Output of the encoder.
        need_weights : bool, optional
            Return the attention weights of every block too.

        Returns
        -------
        prediction, log_variance : torch.Tensor
            ``(n_star, n_request)`` float32, standardised.
        weights : list of torch.Tensor or None
            ``(n_star, n_request, n_token)`` a block.
        """
        collected, pad_mask = [], _padded(memory.pad_mask)
        x = query
        for block, keys_values in zip(self.blocks, memory.keys_values, strict=True):
            x, weights = block(x, keys_values, pad_mask, need_weights)
            collected.append(weights)
        x = self.final_norm(x)
        for name in self.dense_names:
            x = self.dropout(nn.functional.gelu(getattr(self, name)(x)))
        # labels are predicted to better than the three digits of bfloat16
        with without_autocast(x):
            x = x.to(self.decoder_out.weight.dtype)
            prediction = self.decoder_out(x).squeeze(-1).float()
            log_variance = self.decoder_logvar_out(x).squeeze(-1).float()
        return prediction, log_variance, collected


class StellarPerceptronTorchModel(nn.Module):
    """Tokens in, standardised answers out.

    Parameters
    ----------
    config : ModelConfig
        The architecture.
    rows : sequence of int
        Row of the embedding of each token; entry 0 is padding. Tokens may
        share a row (all pixels of the paper do).
    flux_tokens : sequence of int, optional
        Tokens that are pixels; with ``patch_size > 1`` they are gathered into
        patches.
    readout_tokens : sequence of int, optional
        Tokens of ``config.readout_labels``.
    power_token : int, optional
        Token of the logarithm of the resolving power, see `Readout`.
    opinion_tokens : sequence of int, optional
        Tokens of ``config.opinion_labels``.
    opinion_flux : int, optional
        Token of ``config.opinion_flux``.
    """

    def __init__(
        self,
        config,
        rows,
        flux_tokens=(),
        readout_tokens=(),
        power_token=-1,
        opinion_tokens=(),
        opinion_flux=-1,
    ):
        super().__init__()
        self.config = config
        self.register_buffer("rows", torch.as_tensor(rows, dtype=torch.int64), persistent=False)
        # the kind of flux that a token is, -1 for quantities and padding
        self.register_buffer("flux_kind", places_among(flux_tokens, len(rows)), persistent=False)
        self.n_flux = len(flux_tokens)
        if config.wavelength_encoding == "sinusoidal":
            self.encoding = SinusoidalEncoding(config.channels, config.wavelength_center, config.wavelength_scale)
        else:
            self.encoding = LogFourierEncoding(config.channels, config.min_period, config.max_period)
        n_row = len(rows) - 1
        self.embedding_layer = NonLinearEmbedding(n_row, config.embedding_dim, error_input=config.flux_error_input)
        self.patch_layer = PatchEmbedding(config, self.encoding, self.n_flux) if config.patch_size > 1 else None
        self.torch_encoder = StellarPerceptronEncoder(config)
        self.torch_decoder = StellarPerceptronDecoder(config)
        self.readout = Readout(config, readout_tokens, len(rows), power_token) if len(readout_tokens) else None
        beside = config, opinion_tokens, len(rows), opinion_flux
        self.opinion = SecondOpinion(*beside) if len(opinion_tokens) else None

    def embed(self, tokens):
        """Turn tokens into vectors.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.

        Returns
        -------
        vectors : torch.Tensor
            ``(n_star, n_token, embedding_dim)``; patches first where there are.
        pad_mask : torch.Tensor
            ``(n_star, n_token)`` bool.
        """
        if self.patch_layer is None:
            vectors = self.embedding_layer(self.rows[tokens.token], tokens.value, tokens.sigma)
            return vectors + self._encode(tokens.wavelength, vectors), tokens.pad_mask
        pixel, kind = self.pixels(tokens.token)
        vectors, pad_mask = self.patch_layer(tokens.value, tokens.sigma, tokens.wavelength, pixel, kind)
        named = (~pixel) & ~tokens.pad_mask
        if not bool(named.any()):
            return vectors, pad_mask
        n_named = int(named.sum(dim=1).max())
        order = torch.argsort((~named).to(torch.uint8), dim=1, stable=True)[:, :n_named]
        token, value, sigma = (torch.gather(t, 1, order) for t in (tokens.token, tokens.value, tokens.sigma))
        token = torch.where(torch.gather(named, 1, order), token, 0)
        more = self.embedding_layer(self.rows[token], value, sigma)  # (n_star, n_named, embedding_dim)
        return torch.cat((vectors, more.to(vectors)), dim=1), torch.cat((pad_mask, token == 0), dim=1)

    def pixels(self, token):
        """Return which tokens are pixels, and the kind of their flux.

        Parameters
        ----------
        token : torch.Tensor
            ``(n_star, n_token)`` int64.

        Returns
        -------
        pixel : torch.Tensor
            ``(n_star, n_token)`` bool.
        kind : torch.Tensor or None
            ``(n_star, n_token)`` int64, 0 where there is no pixel; None where all fluxes
            are of one kind.
        """
        kind = self.flux_kind[token]
        return kind >= 0, kind.clamp(min=0) if self.n_flux > 1 else None

    def _encode(self, wavelength, like):
        with torch.autocast(like.device.type, enabled=False):
            return self.encoding(wavelength).tile(self.config.encoding_copies).to(like.device, like.dtype)

    def encode(self, tokens, need_weights=False):
        """Perceive a batch.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.
        need_weights : bool, optional
            Keep the attention weights of the encoder.

        Returns
        -------
        Memory
        """
        vectors, pad_mask = self.embed(tokens)
        with _kinds_of_attention(vectors.device):
            vectors, weights = self.torch_encoder(vectors, pad_mask, need_weights)
        attention = weights if need_weights else []
        looks = (None, None) if self.readout is None else self.readout.look(tokens, self.pixels(tokens.token)[0])
        opinion = None if self.opinion is None else self.opinion.look(tokens)
        return Memory(vectors, pad_mask, self.torch_decoder.keys_values(vectors), attention, *looks, opinion)

    def decode(self, memory, request_token, request_wavelength, need_weights=False):
        """Answer requests about perceived stars.

        Parameters
        ----------
        memory : Memory
            From `encode`.
        request_token : torch.Tensor
            ``(n_star, n_request)`` int64.
        request_wavelength : torch.Tensor
            ``(n_star, n_request)`` float64 [Angstrom]; 0 for quantities.
        need_weights : bool, optional
            Return the attention weights of every block too.

        Returns
        -------
        prediction, log_variance : torch.Tensor
            ``(n_star, n_request)`` float32, standardised.
        weights : list of torch.Tensor or None
            ``(n_star, n_request, n_token)`` a block.
        """
        prediction, log_variance, weights = self._looked_at(memory, request_token, request_wavelength, need_weights)
        if memory.opinion is not None:
            prediction, log_variance = self.opinion.weigh(request_token, prediction, log_variance, memory.opinion)
        return prediction, log_variance, weights

    def _looked_at(self, memory, request_token, request_wavelength, need_weights):
        """Return predictions of the decoder and of the readout after it, as `decode`."""
        if memory.second_look is None:
            return self._answer(memory, request_token, request_wavelength, need_weights)
        column = self.readout.column[request_token]
        corrected = (column >= 0) & memory.second_look[:, None]
        if not bool(corrected.any()):
            return self._answer(memory, request_token, request_wavelength, need_weights)
        # the labels that are looked at together, then all other requests
        n_label, others = len(self.readout.tokens), (column < 0).any(dim=0)
        token = torch.cat((self.readout.tokens.expand(len(column), -1), request_token[:, others]), dim=1)
        wavelength = request_wavelength[:, others.to(request_wavelength.device)]
        wavelength = torch.nn.functional.pad(wavelength, (n_label, 0))
        prediction, log_variance, weights = self._answer(memory, token, wavelength, need_weights)
        first = prediction[:, :n_label], log_variance[:, :n_label]
        added = self.readout(memory.pooled, *first, memory.fitted)
        # back to where the requests are
        place = torch.where(column >= 0, column, n_label - 1 + others.cumsum(dim=0))
        value, ln_factor = (torch.where(corrected, a.gather(1, column.clamp(min=0)), 0.0) for a in added)
        weights = [w if w is None else w.gather(1, place[..., None].expand(-1, -1, w.shape[2])) for w in weights]
        return prediction.gather(1, place) + value, log_variance.gather(1, place) + ln_factor, weights

    def _answer(self, memory, request_token, request_wavelength, need_weights):
        """Return predictions of the decoder alone, as `decode`."""
        query = self.embedding_layer.request(self.rows[request_token])
        query = query + self._encode(request_wavelength, query)
        with _kinds_of_attention(query.device):
            return self.torch_decoder(query, memory, need_weights)

    def forward(self, tokens, request_token, request_wavelength):
        """Encode and decode in one call, for training.

        Parameters
        ----------
        tokens : Tokens
            A padded batch.
        request_token, request_wavelength : torch.Tensor
            ``(n_star, n_request)``, see `decode`.

        Returns
        -------
        prediction, log_variance : torch.Tensor
            ``(n_star, n_request)`` float32, standardised.
        """
        prediction, log_variance, _ = self.decode(self.encode(tokens), request_token, request_wavelength)
        return prediction, log_variance
