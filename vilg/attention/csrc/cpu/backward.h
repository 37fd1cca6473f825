/* The gradients of forward.h, from its outputs and lse: nothing that is as large as the scores was kept.

   With P the weights, dO the gradient of the output and delta = sum over d of O dO:
     dV = P^T dO,  dS = P (dO V^T - delta),  dQ = dS K scale,  dK = dS^T Q scale. */
#pragma once
#include "tile.h"

namespace VILG_ISA {

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

/* The inputs of one (batch, head). */
struct BackwardInputs {
  Rows q, k, v, out, grad_out;
  const float* lse;
  float scale;
};

/* Everything about a block of queries that its tiles share. */
template <int D>
void read_queries(const vilg::Layout& layout, int block, const BackwardInputs& in, BackwardScratch<D>& s) {
  read_block<D>(layout, block, in.q, s.queries);
  transpose<D>(s.queries, in.scale * kLog2E, s.queries_turned);
  read_block<D>(layout, block, in.grad_out, s.grad_out);
  transpose<D>(s.grad_out, 1.0f, s.grad_out_turned);
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    Vector product = {};
    if (position >= 0)
      for (int d = 0; d < D; d += kLanes)
        product += load(in.out.data + position * in.out.row + d) * load(s.grad_out + i * D + d);
    s.delta[i] = sum(product);
    s.lse[i] = position < 0 ? -kHidden : in.lse[position] * kLog2E; /* no weight at all where nobody stands */
  }
}

/* P and dS of one tile, keys as rows. */
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
      store(s.grad_scores + j * kTile + i, weight == Vector{} ? Vector{} : grad); /* where nothing was computed */
    }
  }
}

template <int D>
void add_key_gradients(const Reach& r, int key_block, BackwardScratch<D>& s) {
  const int64_t at = int64_t(key_block) * kTile * D;
  add_to_keys<D>(r, s.weights, s.grad_out, s.grad_values + at);
  add_to_keys<D>(r, s.grad_scores, s.queries, s.grad_keys + at);
}

/* dQ of one block; with `keys_too` its share of dK and dV as well. Keys and values are in the scratch. */
template <int D, bool kKeysToo>
void backward_queries(const vilg::Layout& layout, int block, const BackwardInputs& in, RowsOut grad_q,
                      BackwardScratch<D>& s) {
  read_queries<D>(layout, block, in, s);
  prefetch_block<D, false>(layout, block + 1, in.q.data, in.q.row);
  prefetch_block<D, false>(layout, block + 1, in.out.data, in.out.row);
  prefetch_block<D, false>(layout, block + 1, in.grad_out.data, in.grad_out.row);
  prefetch_block<D, true>(layout, block, grad_q.data, grad_q.row);
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

/* dK and dV of one block of keys, along the layout turned round: for when several threads share a head. The tiles come
   in the same order as in backward_queries, so the sums are equal to the last bit. */
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
