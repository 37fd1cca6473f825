/* The gradients of forward.h. They are computed from its inputs, its output and lse; the scores are recomputed.

   P are the attention weights, O is the output, dO its gradient, and delta = sum over d of O dO. The
   product with P in dS is elementwise, the others are matrix products:
     dV = P^T dO,  dS = P (dO V^T - delta),  dQ = dS K scale,  dK = dS^T Q scale. */
#pragma once
#include "tile.h"

namespace VILG_ISA {

/* Buffers of a thread. `*_turned` are transposed: [D][kTile]. weights and grad_scores are [key][query]. */
template <int D>
struct BackwardScratch {
  float* keys;        /* [padded][D] */
  float* values;      /* [padded][D] */
  float* grad_keys;   /* [padded][D] */
  float* grad_values; /* [padded][D] */
  float queries[kTile * D], queries_turned[D * kTile];
  float grad_out[kTile * D], grad_out_turned[D * kTile];
  float grad_queries[kTile * D];
  float weights[kTile * kTile], grad_scores[kTile * kTile];
  float lse[kTile], delta[kTile];
};

/* The inputs for one (batch, head). */
struct BackwardInputs {
  Rows q, k, v, out, grad_out;
  const float* lse;
  float scale;
};

/* Reads what all tiles of a query block need: queries and dO, both also transposed, delta, and lse in base 2. */
template <int D>
void read_queries(const vilg::Layout& layout, int block, const BackwardInputs& in, BackwardScratch<D>& s) {
  read_block<D>(layout, block, in.q, s.queries);
  transpose<D>(s.queries, in.scale * kLog2E, s.queries_turned);
  read_block<D>(layout, block, in.grad_out, s.grad_out);
  transpose<D>(s.grad_out, 1.0f, s.grad_out_turned);
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    Vector product = {};
    if (position >= 0) {
      float out[D];
      read_row<D>(in.out, position, out);
      for (int d = 0; d < D; d += kLanes) product += load(out + d) * load(s.grad_out + i * D + d);
    }
    s.delta[i] = sum(product);
    s.lse[i] = position < 0 ? -kHidden : in.lse[position] * kLog2E; /* padding gets weight 0 */
  }
}

/* P and dS of one tile, with keys as rows, in s.weights and s.grad_scores. */
template <int D>
void grad_scores_of_tile(const Reach& r, int key_block, BackwardScratch<D>& s) {
  score_tile<D>(r, s.keys + int64_t(key_block) * kTile * D, s.queries_turned, s.weights);
  products_of_tile<D>(r, s.values + int64_t(key_block) * kTile * D, s.grad_out_turned, s.grad_scores);
  for (int i = 0; i < kTile; i += kLanes) {
    const Vector lse = load(s.lse + i), delta = load(s.delta + i);
    for (int j = 0; j < kTile; ++j) {
      const Vector weight = exp2(load(s.weights + j * kTile + i) - lse);
      const Vector grad = weight * (load(s.grad_scores + j * kTile + i) - delta);
      store(s.weights + j * kTile + i, weight);
      /* Outside the reach of the tile grad_scores was not computed, and may be anything. */
      store(s.grad_scores + j * kTile + i, weight == Vector{} ? Vector{} : grad);
    }
  }
}

/* Adds the contribution of one tile to dV and dK. */
template <int D>
void add_key_gradients(const Reach& r, int key_block, BackwardScratch<D>& s) {
  const int64_t at = int64_t(key_block) * kTile * D;
  add_to_keys<D>(r, s.weights, s.grad_out, s.grad_values + at);
  add_to_keys<D>(r, s.grad_scores, s.queries, s.grad_keys + at);
}

/* dQ of one query block; with kKeysToo also its contribution to dK and dV. s.keys and s.values have to be filled. */
template <int D, bool kKeysToo>
void backward_queries(const vilg::Layout& layout, int block, const BackwardInputs& in, RowsOut grad_q,
                      BackwardScratch<D>& s) {
  read_queries<D>(layout, block, in, s);
  prefetch_block<D, false>(layout, block + 1, in.q);
  prefetch_block<D, false>(layout, block + 1, in.out);
  prefetch_block<D, false>(layout, block + 1, in.grad_out);
  prefetch_block<D, true>(layout, block, readable(grad_q));
  for (int x = 0; x < kTile * D; x += kLanes) store(s.grad_queries + x, Vector{});
  for (int32_t t = layout.by_query.starts[block]; t < layout.by_query.starts[block + 1]; ++t) {
    const int key_block = layout.by_query.others[t];
    const Reach r = reach(layout, layout.by_query.kinds[t]);
    grad_scores_of_tile<D>(r, key_block, s);
    if (kKeysToo) add_key_gradients<D>(r, key_block, s);
    add_to_queries<D>(r, s.grad_scores, s.keys + int64_t(key_block) * kTile * D, s.grad_queries);
  }
  write_block<D>(layout, block, s.grad_queries, in.scale, grad_q);
}

/* dK and dV of one key block, with the tile list by key block. Used if several threads share a head. For each key
   block the tiles are added in the same order as in backward_queries, so the sums are equal to the last bit. */
template <int D>
void backward_keys(const vilg::Layout& layout, int key_block, const BackwardInputs& in, BackwardScratch<D>& s) {
  for (int32_t t = layout.by_key.starts[key_block]; t < layout.by_key.starts[key_block + 1]; ++t) {
    read_queries<D>(layout, layout.by_key.others[t], in, s);
    const Reach r = reach(layout, layout.by_key.kinds[t]);
    grad_scores_of_tile<D>(r, key_block, s);
    add_key_gradients<D>(r, key_block, s);
  }
}

}  // namespace VILG_ISA
