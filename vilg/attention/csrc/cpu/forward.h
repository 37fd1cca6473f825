/* softmax(Q K^T scale) V over the tiles of one (batch, head), one query block at a time. */
#pragma once
#include <math.h>

#include "tile.h"

namespace VILG_ISA {

/* Number of tiles whose scores are stored at the same time. Such groups are combined by an online softmax:
   earlier sums are rescaled when the maximum changes. At the shape of the paper, the query blocks of a row or
   column layer need only one group, except for the text in image-to-text, which sees the whole image. */
constexpr int kGroup = 4;

/* Buffers of a thread. `turned` has the scores, then the weights, of each tile as [key][query]. */
template <int D>
struct ForwardScratch {
  float* keys;    /* [padded][D] */
  float* values;  /* [padded][D] */
  float queries[kTile * D], queries_turned[D * kTile];
  float turned[kGroup * kTile * kTile];
  float out[kTile * D];
  float maximum[kTile], total[kTile];
};

/* Replaces the scores of `rows` keys (in base 2) by their unnormalised weights, and updates the maximum and total
   of each query. Writes to `shrink` the factor by which the earlier sums of each query have to be multiplied, and
   returns whether any factor differs from 1. */
inline bool weigh(int rows, float* turned, float* maximum, float* total, float* shrink) {
  bool changed = false;
  for (int i = 0; i < kTile; i += kLanes) {
    const Vector before = load(maximum + i);
    Vector highest = before;
    for (int j = 0; j < rows; ++j) highest = larger(highest, load(turned + j * kTile + i));
    /* If a query has seen no key yet, subtracting kHidden would give its hidden keys the weight 1. */
    const Vector base = highest <= all(kHidden) ? Vector{} : highest;
    Vector added = {};
    for (int j = 0; j < rows; ++j) {
      const Vector weight = exp2(load(turned + j * kTile + i) - base);
      added += weight;
      store(turned + j * kTile + i, weight);
    }
    const Vector factor = before <= all(kHidden) ? all(1.0f) : exp2(before - base);
    store(maximum + i, highest);
    store(total + i, load(total + i) * factor + added);
    store(shrink + i, factor);
    for (int lane = 0; lane < kLanes; ++lane) changed |= factor[lane] != 1.0f;
  }
  return changed;
}

/* Output and lse of one query block. s.keys and s.values have to be filled. */
template <int D>
void forward_block(const vilg::Layout& layout, int block, float scale, Rows q, RowsOut out, float* lse,
                   ForwardScratch<D>& s) {
  read_block<D>(layout, block, q, s.queries);
  prefetch_block<D, false>(layout, block + 1, q);
  prefetch_block<D, true>(layout, block, readable(out));
  transpose<D>(s.queries, scale * kLog2E, s.queries_turned);
  for (int i = 0; i < kTile; ++i) s.maximum[i] = kHidden, s.total[i] = 0;
  const int32_t first = layout.by_query.starts[block], last = layout.by_query.starts[block + 1];
  const int32_t* others = layout.by_query.others;
  for (int x = 0; x < kTile * D; x += kLanes) store(s.out + x, Vector{});
  Reach reaches[kGroup];
  for (int32_t group = first; group < last; group += kGroup) {
    const int count = last - group < kGroup ? last - group : kGroup;
    for (int t = 0; t < count; ++t) {
      reaches[t] = reach(layout, layout.by_query.kinds[group + t]);
      score_tile<D>(reaches[t], s.keys + int64_t(others[group + t]) * kTile * D, s.queries_turned,
                    s.turned + t * kTile * kTile);
    }
    float shrink[kTile];
    if (weigh(count * kTile, s.turned, s.maximum, s.total, shrink) && group != first)
      for (int i = 0; i < kTile; ++i)
        for (int d = 0; d < D; d += kLanes) store(s.out + i * D + d, load(s.out + i * D + d) * shrink[i]);
    for (int t = 0; t < count; ++t)
      add_to_queries<D>(reaches[t], s.turned + t * kTile * kTile, s.values + int64_t(others[group + t]) * kTile * D,
                        s.out);
  }
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position < 0) continue;
    write_row<D>(s.out + i * D, 1.0f / s.total[i], out, position);
    lse[position] = s.maximum[i] * kLn2 + logf(s.total[i]);
  }
}

}  // namespace VILG_ISA
