/* Functions that the forward and the backward pass share: reading rows in the order of the layout, and products
   of tiles.

   Scores are stored transposed ("turned"), with keys as rows and queries as vector lanes. The softmax over keys
   then needs no reduction within a vector, keys and values are used without a transposition, and only the 32
   queries of a block are transposed. */
#pragma once
#include "../element.h"
#include "../layout.h"
#include "convert_loops.h"
#include "kernels.h"
#include "product.h"

namespace VILG_ISA {

constexpr int kTile = 32;
constexpr float kHidden = -1e30f;       /* the score of a pair whose query does not see the key */
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

/* The rows of one (batch, head): position p starts at element p * row. */
struct Rows {
  const void* data;
  int64_t row;
  int type;
  const void* at(int64_t position) const { return vilg::element(data, position * row, type); }
};
struct RowsOut {
  void* data;
  int64_t row;
  int type;
  void* at(int64_t position) const { return vilg::element(data, position * row, type); }
};

inline Rows readable(RowsOut rows) { return {rows.data, rows.row, rows.type}; }

/* The row of a position in float32, in to[D]. */
template <int D>
inline void read_row(Rows from, int32_t position, float* to) {
  if (from.type != VILG_FLOAT32) return widen(from.type, static_cast<const uint16_t*>(from.at(position)), D, to);
  const float* row = static_cast<const float*>(from.at(position));
  for (int d = 0; d < D; d += kLanes) store(to + d, load(row + d));
}

/* The row of a position becomes from[D] * factor, rounded to its type. */
template <int D>
inline void write_row(const float* from, float factor, RowsOut to, int32_t position) {
  float row[D];
  const bool narrows = to.type != VILG_FLOAT32;
  float* product = narrows ? row : static_cast<float*>(to.at(position));
  for (int d = 0; d < D; d += kLanes) store(product + d, load(from + d) * factor);
  if (narrows) narrow(to.type, row, D, static_cast<uint16_t*>(to.at(position)));
}

/* Copies the rows of block `block` of the order into to[32][D], with zeros for padding. */
template <int D>
inline void read_block(const vilg::Layout& layout, int block, Rows from, float* to) {
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position >= 0)
      read_row<D>(from, position, to + i * D);
    else
      for (int d = 0; d < D; d += kLanes) store(to + i * D + d, Vector{});
  }
}

/* Writes from[32][D] * factor to the rows of block `block` of the order. */
template <int D>
inline void write_block(const vilg::Layout& layout, int block, const float* from, float factor, RowsOut to) {
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position >= 0) write_row<D>(from + i * D, factor, to, position);
  }
}

/* Prefetches the rows of a block. They are heads * D floats apart, each in a different page, which the hardware
   prefetcher does not predict. A block that does not exist is skipped; for a head that does not exist, the
   prefetched addresses are never read. */
template <int D, bool kToWrite>
inline void prefetch_block(const vilg::Layout& layout, int block, Rows rows) {
  if (block >= layout.padded / kTile) return;
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position < 0) continue;
    const char* row = static_cast<const char*>(rows.at(position));
    for (int byte = 0; byte < D * (rows.type == VILG_FLOAT32 ? 4 : 2); byte += 64)
      __builtin_prefetch(row + byte, kToWrite);
  }
}

/* to[D][32] = transpose of from[32][D], times factor */
template <int D>
inline void transpose(const float* from, float factor, float* to) {
  for (int d = 0; d < D; d += kLanes)
    for (int i = 0; i < kTile; i += kLanes) {
      Vector rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = load(from + (i + r) * D + d) * factor;
      transpose_square(rows);
      for (int r = 0; r < kLanes; ++r) store(to + (d + r) * kTile + i, rows[r]);
    }
}

/* Sets the score to kHidden where bit i of bits[j] is 0, that is, where query i does not see key j. */
inline void hide(const uint32_t* bits, float* turned) {
  Integers lane_bit;
  for (int lane = 0; lane < kLanes; ++lane) lane_bit[lane] = int32_t(1u << lane);
  for (int j = 0; j < kTile; ++j)
    for (int i = 0; i < kTile; i += kLanes) {
      const Integers seen = (Integers{} + int32_t(bits[j] >> i)) & lane_bit;
      store(turned + j * kTile + i, seen != 0 ? load(turned + j * kTile + i) : all(kHidden));
    }
}

/* The part of a tile that contains visible pairs, in groups of 8 keys and 16 queries. At the edge of a window,
   corners of a tile, up to half of it, have none and are not computed. Ranges are half-open: [first, last). */
constexpr int kKeyGroup = 8, kQueryGroup = 16;
struct Reach {
  const uint32_t* bits; /* nullptr: every query sees every key */
  int first_query[kTile / kKeyGroup], last_query[kTile / kKeyGroup]; /* the queries that see each group of keys */
  int first_key[kTile / kQueryGroup], last_key[kTile / kQueryGroup]; /* the keys that each group of queries sees */
};

/* The Reach of a tile of this kind. */
inline Reach reach(const vilg::Layout& layout, int32_t kind) {
  Reach r;
  r.bits = kind < 0 ? nullptr : layout.bits + int64_t(kind) * kTile;
  for (int h = 0; h < kTile / kQueryGroup; ++h) r.first_key[h] = kTile, r.last_key[h] = 0;
  for (int g = 0; g < kTile / kKeyGroup; ++g) {
    uint32_t seen = r.bits ? 0 : ~0u;
    if (r.bits)
      for (int j = 0; j < kKeyGroup; ++j) seen |= r.bits[g * kKeyGroup + j];
    r.first_query[g] = seen & 0xFFFFu ? 0 : kQueryGroup;
    r.last_query[g] = seen >> 16 ? kTile : kQueryGroup;
    if (!seen) r.first_query[g] = r.last_query[g] = 0;
    for (int h = 0; h < kTile / kQueryGroup; ++h) {
      if (!(seen >> (h * kQueryGroup) & 0xFFFFu)) continue;
      if (g * kKeyGroup < r.first_key[h]) r.first_key[h] = g * kKeyGroup;
      r.last_key[h] = (g + 1) * kKeyGroup;
    }
  }
  return r;
}

/* turned[32 keys][32 queries] = keys[32][D] times_turned[D][32], a matrix product, within the reach of the tile.
   The other elements are not written. */
template <int D>
inline void products_of_tile(const Reach& r, const float* keys, const float* times_turned, float* turned) {
  for (int g = 0; g < kTile / kKeyGroup; ++g) {
    const float* a = keys + g * kKeyGroup * D;
    const int first = r.first_query[g];
    float* c = turned + g * kKeyGroup * kTile + first;
    if (r.last_query[g] - first == kTile)
      product<kKeyGroup, kTile, false>(D, a, D, 1, times_turned, kTile, c, kTile);
    else if (r.last_query[g] != first)
      product<kKeyGroup, kQueryGroup, false>(D, a, D, 1, times_turned + first, kTile, c, kTile);
  }
}

/* The scores of a tile, kHidden where the mask hides a pair. */
template <int D>
inline void score_tile(const Reach& r, const float* keys, const float* queries_turned, float* turned) {
  products_of_tile<D>(r, keys, queries_turned, turned);
  if (r.bits) hide(r.bits, turned);
}

/* to_queries[32][D] += turned^T rows[32][D]: sums over keys, for each query */
template <int D>
inline void add_to_queries(const Reach& r, const float* turned, const float* rows, float* to_queries) {
  for (int h = 0; h < kTile / kQueryGroup; ++h)
    product<kQueryGroup, D, true>(r.last_key[h] - r.first_key[h], turned + r.first_key[h] * kTile + h * kQueryGroup, 1,
                                  kTile, rows + r.first_key[h] * D, D, to_queries + h * kQueryGroup * D, D);
}

/* to_keys[32][D] += turned rows[32][D]: sums over queries, for each key */
template <int D>
inline void add_to_keys(const Reach& r, const float* turned, const float* rows, float* to_keys) {
  for (int g = 0; g < kTile / kKeyGroup; ++g)
    product<kKeyGroup, D, true>(r.last_query[g] - r.first_query[g], turned + g * kKeyGroup * kTile + r.first_query[g],
                                kTile, 1, rows + r.first_query[g] * D, D, to_keys + g * kKeyGroup * D, D);
}

}  // namespace VILG_ISA
