/* What forward and backward share: reading rows by the order of the layout, and the scores of a tile.

   Scores are kept with keys as rows and queries as lanes ("turned"): the softmax over keys then runs down the rows
   without a reduction inside a vector, keys and values are read as they lie, and only the 32 queries of a block are
   transposed. */
#pragma once
#include "../layout.h"
#include "product.h"

namespace VILG_ISA {

constexpr int kTile = 32;
constexpr float kHidden = -1e30f;       /* the score of a pair that does not see each other */
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

/* Rows of one (batch, head): position p begins at data + p * row. */
struct Rows {
  const float* data;
  int64_t row;
};
struct RowsOut {
  float* data;
  int64_t row;
};

/* Block `block` of the order into to[32][D]; zeros where nobody stands. */
template <int D>
inline void read_block(const vilg::Layout& layout, int block, Rows from, float* to) {
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    const float* row = from.data + position * from.row;
    for (int d = 0; d < D; d += kLanes) store(to + i * D + d, position < 0 ? Vector{} : load(row + d));
  }
}

template <int D>
inline void write_block(const vilg::Layout& layout, int block, const float* from, float factor, RowsOut to) {
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position < 0) continue;
    for (int d = 0; d < D; d += kLanes) store(to.data + position * to.row + d, load(from + i * D + d) * factor);
  }
}

/* Asks for the rows of a block before they are needed. They lie heads * D floats apart, in pages of their own, which
   the processor does not guess. A block or head that does not exist is only an address that nobody reads. */
template <int D, bool kToWrite>
inline void prefetch_block(const vilg::Layout& layout, int block, const float* data, int64_t row) {
  if (block >= layout.padded / kTile) return;
  for (int i = 0; i < kTile; ++i) {
    const int32_t position = layout.order[block * kTile + i];
    if (position < 0) continue;
    for (int d = 0; d < D; d += 16) __builtin_prefetch(data + position * row + d, kToWrite);
  }
}

/* to[D][32] = from[32][D] * factor, transposed */
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

/* Puts kHidden where bit i of bits[j] says that query i does not see key j. */
inline void hide(const uint32_t* bits, float* turned) {
  Integers lane_bit;
  for (int lane = 0; lane < kLanes; ++lane) lane_bit[lane] = int32_t(1u << lane);
  for (int j = 0; j < kTile; ++j)
    for (int i = 0; i < kTile; i += kLanes) {
      const Integers seen = (Integers{} + int32_t(bits[j] >> i)) & lane_bit;
      store(turned + j * kTile + i, seen != 0 ? load(turned + j * kTile + i) : all(kHidden));
    }
}

/* Which part of a tile holds anything. A window's edge leaves corners empty, up to half of a tile. */
constexpr int kKeyGroup = 8, kQueryGroup = 16;
struct Reach {
  const uint32_t* bits; /* nullptr: every query sees every key */
  int first_query[kTile / kKeyGroup], last_query[kTile / kKeyGroup]; /* that see a group of keys; last is one behind */
  int first_key[kTile / kQueryGroup], last_key[kTile / kQueryGroup]; /* that a group of queries sees */
};

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

/* turned[key][query] = keys[32][D] times_turned[D][32] where the tile reaches; the rest is left as it is */
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

/* The scores of a tile, with what it hides hidden. */
template <int D>
inline void score_tile(const Reach& r, const float* keys, const float* queries_turned, float* turned) {
  products_of_tile<D>(r, keys, queries_turned, turned);
  if (r.bits) hide(r.bits, turned);
}

/* to_queries[32][D] += turned^T rows[32][D]: from keys to queries */
template <int D>
inline void add_to_queries(const Reach& r, const float* turned, const float* rows, float* to_queries) {
  for (int h = 0; h < kTile / kQueryGroup; ++h)
    product<kQueryGroup, D, true>(r.last_key[h] - r.first_key[h], turned + r.first_key[h] * kTile + h * kQueryGroup, 1,
                                  kTile, rows + r.first_key[h] * D, D, to_queries + h * kQueryGroup * D, D);
}

/* to_keys[32][D] += turned rows[32][D]: from queries to keys */
template <int D>
inline void add_to_keys(const Reach& r, const float* turned, const float* rows, float* to_keys) {
  for (int g = 0; g < kTile / kKeyGroup; ++g)
    product<kKeyGroup, D, true>(r.last_query[g] - r.first_query[g], turned + g * kKeyGroup * kTile + r.first_query[g],
                                kTile, 1, rows + r.first_query[g] * D, D, to_keys + g * kKeyGroup * D, D);
}

}  // namespace VILG_ISA
